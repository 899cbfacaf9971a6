package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/alertmedic/alertmedic/internal/api/client"
)

// The exit codes, as the help of the root command documents them.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitProblems = 3
	exitNotFound = 4
	exitRefused  = 5
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

var (
	// errReported ends a command that has told what is wrong already.
	errReported = errors.New("reported")
	// errProblems is check's: the problems are on the standard output.
	errProblems = fmt.Errorf("%w: problems found", errReported)
	errNotFound = errors.New("not found")
	// errRefused is a person's no, or one of the service.
	errRefused = errors.New("refused")
)

func (cl *cli) exitCode(err error) int {
	var usage *usageError
	var answer *client.Error
	var badBackup *badBackupError
	switch {
	case err == nil:
		return exitOK
	case !cl.started, errors.As(err, &usage):
		// What cobra refuses before a command starts is the command line's fault.
		return exitUsage
	case errors.Is(err, errProblems), errors.As(err, &badBackup):
		return exitProblems
	case errors.Is(err, errNotFound):
		return exitNotFound
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.As(err, &answer):
		switch answer.Status {
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			return exitUsage
		case http.StatusNotFound:
			return exitNotFound
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict:
			return exitRefused
		}
	}
	return exitError
}
