package api_test

import (
	"net/http"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/playbooks"
)

type noAuth struct{}

func (noAuth) Authenticate(*http.Request) (auth.Identity, error) {
	return auth.Identity{}, auth.ErrNoCredential
}

func noPlaybooks() *playbooks.Set { return nil }
