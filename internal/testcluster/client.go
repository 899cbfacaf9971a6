package testcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AdminUser is the name that RESTConfig and Client act under; it may do
// anything. Mutations by it in the audit log are the test's own.
const AdminUser = "medic-test:admin"

func (c *Cluster) connect() error {
	config, err := c.RESTConfigAs(AdminUser, "system:masters")
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	c.config, c.client = config, client
	return nil
}

// RESTConfig returns a fresh copy of the administrator's configuration.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// Client is the administrator's client.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// RESTConfigAs returns a configuration that authenticates, with a certificate
// of its own, as the user and groups; RBAC decides what it may do.
func (c *Cluster) RESTConfigAs(user string, groups ...string) (*rest.Config, error) {
	pair, err := c.ca.client(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.server,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.pem, CertData: pair.cert, KeyData: pair.key},
		// Client-side throttling would make a busy test slow, not right.
		QPS: -1,
	}, nil
}

// RESTConfigFor returns a configuration that authenticates as a ServiceAccount
// with a token of one hour, as a pod of it would.
func (c *Cluster) RESTConfigFor(ctx context.Context, namespace, serviceAccount string) (*rest.Config, error) {
	token, err := c.Token(ctx, namespace, serviceAccount)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.server,
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.pem},
		QPS:             -1,
	}, nil
}

// Token issues a token for a ServiceAccount, valid for an hour.
func (c *Cluster) Token(ctx context.Context, namespace, serviceAccount string) (string, error) {
	seconds := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	answer, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s/%s: %w", namespace, serviceAccount, err)
	}
	return answer.Status.Token, nil
}

// Kubeconfig writes the administrator's kubeconfig to path, readable by the
// user alone.
func (c *Cluster) Kubeconfig(path string) error {
	return writeKubeconfig(path, c.server, c.ca.pem, keyPair{cert: c.config.CertData, key: c.config.KeyData})
}

// KubeconfigFor writes a kubeconfig that authenticates as a ServiceAccount
// with a token of one hour.
func (c *Cluster) KubeconfigFor(ctx context.Context, path, namespace, serviceAccount string) error {
	token, err := c.Token(ctx, namespace, serviceAccount)
	if err != nil {
		return err
	}
	return saveKubeconfig(path, c.server, c.ca.pem, &clientcmdapi.AuthInfo{Token: token})
}

func writeKubeconfig(path, server string, ca []byte, pair keyPair) error {
	return saveKubeconfig(path, server, ca, &clientcmdapi.AuthInfo{ClientCertificateData: pair.cert, ClientKeyData: pair.key})
}

func saveKubeconfig(path, server string, ca []byte, auth *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos["test"] = auth
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	config.CurrentContext = "test"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
