package main

import (
	"context"
	"log/slog"

	"github.com/alertmedic/alertmedic/internal/app"
	"github.com/alertmedic/alertmedic/internal/config"
)

// runApp serves until ctx ends; tests replace it.
var runApp = func(ctx context.Context, cfg *config.Config, logger *slog.Logger, reload <-chan struct{}) error {
	return app.Run(ctx, app.Options{Config: cfg, Logger: logger, Reload: reload, Version: versionName()})
}
