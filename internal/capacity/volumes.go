package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
)

// volumes is what a pod's volumes ask of its node.
type volumes struct {
	claims []Claim
	// held says which claim, that only one pod may use, another pod uses.
	held string
	// attached counts inline CSI volumes and claims of a CSI driver.
	attached int
}

// ClaimNames are the names of the claims that a pod uses, in its namespace.
// Claims that are made for the pod alone are not among them.
func ClaimNames(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Volumes {
		if c := pod.Spec.Volumes[i].PersistentVolumeClaim; c != nil {
			out = append(out, c.ClaimName)
		}
	}
	return out
}

// volumes reads what the pod's volumes ask for, and what of it cannot be told.
func (c *cluster) volumes(pod *corev1.Pod) (*volumes, []string) {
	out, unknown := &volumes{}, []string(nil)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			claim, ok := c.world.Claims[ClaimKey(pod.Namespace, v.PersistentVolumeClaim.ClaimName)]
			if why := unreadable(claim, ok); why != "" {
				unknown = append(unknown, "claim "+v.PersistentVolumeClaim.ClaimName+" "+why)
				continue
			}
			if claim.Volume.Spec.CSI != nil {
				out.attached++
				if c.drivers == nil {
					unknown = append(unknown, "claim "+v.PersistentVolumeClaim.ClaimName+" is of a CSI driver, and CSINodes could not be listed")
				}
			}
			out.claims = append(out.claims, claim)
			if slices.Contains(claim.Claim.Spec.AccessModes, corev1.ReadWriteOncePod) && c.used(pod, claim.Claim.Name) {
				out.held = claim.Claim.Name
			}
		case v.Ephemeral != nil:
			unknown = append(unknown, "volume "+v.Name+" is provisioned anew for each pod")
		case v.CSI != nil:
			out.attached++
		case v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.AzureDisk != nil || v.ISCSI != nil || v.RBD != nil || v.Cinder != nil:
			unknown = append(unknown, "volume "+v.Name+" is a disk that may be tied to a node or a zone")
		}
	}
	return out, unknown
}

func unreadable(c Claim, ok bool) string {
	switch {
	case !ok || c.Claim == nil:
		return "could not be read"
	case c.Claim.Spec.VolumeName == "":
		return "is not bound to a volume"
	case c.Claim.DeletionTimestamp != nil:
		return "is being deleted"
	case c.Volume == nil:
		return "is bound to volume " + c.Claim.Spec.VolumeName + ", which could not be read"
	}
	s := &c.Volume.Spec
	for k := range c.Volume.Labels {
		if k == corev1.LabelFailureDomainBetaZone || k == corev1.LabelFailureDomainBetaRegion {
			return "is bound to volume " + c.Volume.Name + ", whose zone is a label of old"
		}
	}
	if s.CSI == nil && s.Local == nil && s.HostPath == nil && s.NFS == nil {
		return "is bound to volume " + c.Volume.Name + " of a kind whose limits are not known"
	}
	return ""
}

// used reports whether a live pod other than this one uses the claim.
func (c *cluster) used(pod *corev1.Pod, claim string) bool {
	for _, n := range c.nodes {
		for _, p := range n.pods {
			if p.pod.Namespace == pod.Namespace && p.pod.UID != pod.UID && slices.Contains(ClaimNames(p.pod), claim) {
				return true
			}
		}
	}
	return false
}

var zoneLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// refuses says why the node cannot take the volumes, "" when it can.
func (v *volumes) refuses(c *cluster, n *node) string {
	if v == nil {
		return ""
	}
	if v.held != "" {
		return "claim " + v.held + " is in use by another pod"
	}
	for _, claim := range v.claims {
		s := &claim.Volume.Spec
		if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
			if ok, err := scheduling.MatchNodeSelectorTerms(n.node, s.NodeAffinity.Required); err != nil || !ok {
				return fmt.Sprintf("claim %s has its volume elsewhere", claim.Claim.Name)
			}
		}
		for _, k := range zoneLabels {
			if zones, ok := claim.Volume.Labels[k]; ok && !slices.Contains(strings.Split(zones, "__"), n.node.Labels[k]) {
				return fmt.Sprintf("claim %s has its volume in %s", claim.Claim.Name, cmp.Or(zones, "no zone"))
			}
		}
		if s.CSI == nil {
			continue
		}
		limit, ok := c.drivers[n.node.Name][s.CSI.Driver]
		if !ok {
			return "CSI driver " + s.CSI.Driver + " is not there"
		}
		// Which of the others are of the driver would take a read of every claim:
		// all of them are counted.
		if limit >= 0 && n.attached()+v.attached > limit {
			return "too many volumes of CSI driver " + s.CSI.Driver
		}
	}
	return ""
}

// attached counts the volumes of the node's pods that may be of a CSI driver.
func (n *node) attached() int {
	distinct, out := map[string]bool{}, 0
	for _, p := range n.pods {
		for i := range p.pod.Spec.Volumes {
			switch v := &p.pod.Spec.Volumes[i]; {
			case v.PersistentVolumeClaim != nil:
				distinct[ClaimKey(p.pod.Namespace, v.PersistentVolumeClaim.ClaimName)] = true
			case v.Ephemeral != nil || v.CSI != nil:
				out++
			}
		}
	}
	return out + len(distinct)
}
