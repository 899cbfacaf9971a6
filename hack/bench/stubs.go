package main

import (
	"context"
	"errors"
)

func storm(ctx context.Context, b *bench) error    { return errors.New("todo") }
func takeover(ctx context.Context, b *bench) error { return errors.New("todo") }
