package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const shopNamespace = "shop"

// deployments of the shop: a Service of the same name stands before each.
var shop = map[string]int32{"web": 5, "cart": 2, "checkout": 3, "catalog": 2}

// deployShop creates the shop and waits until it serves.
func (s *stage) deployShop(ctx context.Context) error {
	s.view.step("deploying the shop: web, cart, checkout and catalog")
	if err := s.cluster.AddNamespace(ctx, shopNamespace); err != nil {
		return err
	}
	for name, replicas := range shop {
		labels := map[string]string{"app": name}
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: shopNamespace, Labels: labels},
			Spec: appsv1.DeploymentSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
				// A rollout that does not get on counts as stuck after this long.
				ProgressDeadlineSeconds: ptr(int32(8)),
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: "shop/" + name + ":1.0"}}},
				},
			},
		}
		if name == "web" {
			d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: frontTaint.Key, Operator: corev1.TolerationOpExists}}
		}
		if _, err := s.client.AppsV1().Deployments(shopNamespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
			return err
		}
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: shopNamespace},
			Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		}
		if _, err := s.client.CoreV1().Services(shopNamespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for name := range shop {
		if err := s.cluster.WaitDeploymentAvailable(ctx, shopNamespace, name); err != nil {
			return err
		}
	}
	return nil
}

// podsOf lists the pods of one of the shop's deployments.
func (s *stage) podsOf(ctx context.Context, app string) ([]corev1.Pod, error) {
	pods, err := s.client.CoreV1().Pods(shopNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("no pods of %s", app)
	}
	return pods.Items, nil
}

func ptr[T any](v T) *T { return &v }
