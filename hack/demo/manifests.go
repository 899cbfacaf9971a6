package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// accessKinds are applied from deploy/manifests/base, in this order: the demo's
// alertmedic runs outside the cluster, with the rights that it would have inside.
var accessKinds = []string{"Namespace", "ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"}

func (s *stage) applyManifests(ctx context.Context) error {
	objects, err := readManifests(filepath.Join(s.root, "deploy", "manifests", "base"))
	if err != nil {
		return err
	}
	config := s.cluster.RESTConfig()
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	applied := 0
	for _, kind := range accessKinds {
		for _, o := range objects {
			if o.GetKind() != kind {
				continue
			}
			gvk := o.GroupVersionKind()
			m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil {
				return err
			}
			if kind == "RoleBinding" || kind == "Role" {
				// The shop's namespace may not be there yet.
				if err := s.ensureNamespace(ctx, o.GetNamespace()); err != nil {
					return err
				}
			}
			_, err = client.Resource(m.Resource).Namespace(o.GetNamespace()).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "alertmedic-demo"})
			if err != nil {
				return fmt.Errorf("%s %s: %w", kind, o.GetName(), err)
			}
			applied++
		}
	}
	if applied == 0 {
		return errors.New("found no ServiceAccounts and RBAC in it")
	}
	return nil
}

func (s *stage) ensureNamespace(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	_, err := s.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	return s.cluster.AddNamespace(ctx, name)
}

func readManifests(dir string) ([]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []*unstructured.Unstructured
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
		for {
			o := &unstructured.Unstructured{}
			if err := dec.Decode(o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			if len(o.Object) > 0 {
				out = append(out, o)
			}
		}
	}
	return out, nil
}

// frontTaint keeps all but the shop's front off the node that will fail: what
// breaks elsewhere must break for its own reason.
var frontTaint = corev1.Taint{Key: "shop/front", Value: "only", Effect: corev1.TaintEffectNoSchedule}

// pickNode chooses the node that will fail and reserves it for the shop's front.
func (s *stage) pickNode(ctx context.Context) (string, error) {
	nodes, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	if len(nodes.Items) == 0 {
		return "", errors.New("the cluster has no nodes")
	}
	node := &nodes.Items[len(nodes.Items)-1]
	node.Spec.Taints = append(node.Spec.Taints, frontTaint)
	_, err = s.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return node.Name, err
}
