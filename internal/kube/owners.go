package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// owned is one station of an owner walk. Object is nil for a controller that
// was not read: a custom resource, a CronJob, or a node.
type owned struct {
	ref    action.Ref
	object *unstructured.Unstructured
}

// chain is an object followed by its controllers, topmost last.
type chain []owned

// top is the topmost controller, the object itself if nothing controls it.
func (c chain) top() action.Ref { return c[len(c)-1].ref }

// find returns the highest station that was read and that the declared kind covers.
func (c chain) find(declared action.Kind) (owned, bool) {
	for i := len(c) - 1; i >= 0; i-- {
		if c[i].object != nil && declared.Covers(c[i].ref.Kind) {
			return c[i], true
		}
	}
	return owned{}, false
}

// holds reports whether the chain has a station of the kind, and its name.
func (c chain) holds(kind action.Kind) (name string, ok bool) {
	for _, o := range c {
		if o.ref.Kind == kind && (o.object != nil || readable(o.ref)) {
			return o.ref.Name, true
		}
	}
	return "", false
}

// walk follows the controllers of an object upwards. Workloads and Jobs are
// read, since only they tell their own controller; anything else ends the walk
// as the top. An owner that is gone, or that is another object of the same name,
// also ends it: the garbage collector is about to take what it leaves behind.
func (c *Client) walk(ctx context.Context, object *unstructured.Unstructured) (chain, error) {
	return walk(ctx, object, c.get)
}

// getter reads one object. The error is the API's.
type getter func(ctx context.Context, kind action.Kind, namespace, name string) (*unstructured.Unstructured, error)

func walk(ctx context.Context, object *unstructured.Unstructured, get getter) (chain, error) {
	out := chain{{ref: refOf(object), object: object}}
	for len(out) < 6 { // no real chain is longer; a cycle must not be followed
		owner, ok := controllerOf(out[len(out)-1].object)
		if !ok {
			return out, nil
		}
		if !readable(owner) || (!action.KindWorkload.Covers(owner.Kind) && owner.Kind != action.KindJob) {
			return append(out, owned{ref: owner}), nil
		}
		parent, err := get(ctx, owner.Kind, owner.Namespace, owner.Name)
		if apierrors.IsNotFound(err) || err == nil && string(parent.GetUID()) != owner.UID {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, owned{ref: refOf(parent), object: parent})
	}
	return out, nil
}
