package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Require lets requests of identities with the role through, with the identity
// in their context. Others are answered 401 (nobody known), 403 (not allowed)
// or 503 (could not be found out), with {"error": what to do}.
func (a *Authenticator) Require(role Role) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, err := a.Authenticate(r)
			if err == nil && !who.May(role) {
				refuse(w, http.StatusForbidden, fmt.Sprintf("%s does not have the role %s", who.Name, role))
				return
			}
			if err != nil {
				refuse(w, Status(err), err.Error())
				return
			}
			next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), who)))
		})
	}
}

// Status returns the HTTP status for an error of authentication.
func Status(err error) int {
	if errors.Is(err, ErrNoCredential) || errors.Is(err, ErrBadCredential) {
		return http.StatusUnauthorized
	}
	return http.StatusServiceUnavailable
}

func refuse(w http.ResponseWriter, status int, message string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="alertmedic"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status is sent: there is nobody to tell of a failed write.
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}
