package main

import (
	"context"
	"errors"
)

func working(ctx context.Context, b *bench) error  { return errors.New("todo") }
func react(ctx context.Context, b *bench) error    { return errors.New("todo") }
func idle(ctx context.Context, b *bench) error     { return errors.New("todo") }
func storm(ctx context.Context, b *bench) error    { return errors.New("todo") }
func takeover(ctx context.Context, b *bench) error { return errors.New("todo") }
func start(ctx context.Context, b *bench) error    { return errors.New("todo") }
