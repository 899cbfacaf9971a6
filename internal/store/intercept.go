package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// Wrap stands between the store and a database's driver: every connection is
// made by the connector that it returns. Tests see each call there and fail it,
// and a tracer could time it; see Operation. It must pass on everything that the
// driver can do.
type Wrap func(driver.Connector) driver.Connector

type operationKey struct{}

// Operation names the write transaction, as the store's errors and metrics do,
// in which a driver is called with this context: "" outside of one.
func Operation(ctx context.Context) string {
	what, _ := ctx.Value(operationKey{}).(string)
	return what
}

func withOperation(ctx context.Context, what string) context.Context {
	return context.WithValue(ctx, operationKey{}, what)
}

// connected opens the DSN of db with its driver: with prepared statements that
// are kept, and through the wrap, if there is one.
func (w Wrap) connected(db *sql.DB, dsn string) *sql.DB {
	drv := db.Driver()
	_ = db.Close() // nothing has been opened yet
	var c driver.Connector = preparing{connector{drv, dsn}}
	if w != nil {
		c = w(c)
	}
	return sql.OpenDB(c)
}

// connector opens a DSN with a driver that has no connector of its own.
type connector struct {
	driver driver.Driver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) } //nolint:wrapcheck // the driver's own
func (c connector) Driver() driver.Driver                        { return c.driver }
