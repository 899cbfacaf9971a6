package store

import "context"

// PendingMessages counts the messages of the outbox that are not delivered and
// not given up, by channel.
func (s *Store) PendingMessages(ctx context.Context) (map[string]int, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT channel, count(*) FROM outbox WHERE status = 'pending' GROUP BY channel")
	if err != nil {
		return nil, s.wrap("count the outbox", err)
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var channel string
		var n int
		if err := rows.Scan(&channel, &n); err != nil {
			return nil, s.wrap("count the outbox", err)
		}
		out[channel] = n
	}
	return out, s.wrap("count the outbox", rows.Err())
}
