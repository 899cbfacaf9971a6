package workload

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

func TestScaleParams(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		``:                         "refused: parameters: give to, the number of replicas, or by, how many to add",
		`{"to":1,"by":1}`:          "refused: parameters: give to or by, not both",
		`{"by":0}`:                 "refused: parameters: by is 0: that changes nothing",
		`{"by":1}`:                 "refused: parameters: by adds replicas every time it runs: give max, the ceiling",
		`{"to":2,"min":-1}`:        "refused: parameters: min is -1: it cannot be negative",
		`{"to":2,"min":3,"max":2}`: "refused: parameters: max is 2 and min is 3: nothing lies between",
		`{"to":0}`:                 "refused: parameters: to is 0 and takes everything down: say min: 0 as well if that is meant",
		`{"to":-1,"min":0}`:        "refused: parameters: to is -1, below min, 0",
		`{"to":2,"min":3}`:         "refused: parameters: to is 2, below min, 3",
		`{"to":9,"max":3}`:         "refused: parameters: to is 9, above max, 3",
		`{"to":1.5}`:               "refused: parameters: cannot unmarshal number 1.5 into Go struct field ScaleParams.to of type int64",
		`{"too":1}`:                `refused: parameters: unknown field "too"`,
		`{"to":0,"min":0}`:         "",
		`{"by":-3}`:                "",
		`{"by":1,"max":4}`:         "",
	} {
		_, err := contract.Params(json.RawMessage(in), &ScaleParams{})
		if want == "" {
			require.NoError(t, err, in)
			continue
		}
		require.EqualError(t, err, want, in)
	}
}

func TestWish(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		params  string
		current int64
		want    int64
		err     string
	}{
		{`{"to":4}`, 2, 4, ""},
		{`{"by":2,"max":10}`, 3, 5, ""},
		{`{"by":2,"max":4}`, 3, 4, ""},
		{`{"by":2,"max":4}`, 4, 0, "it has 4 replicas and max is 4: the ceiling is reached"},
		{`{"by":2,"max":4}`, 7, 0, "it has 7 replicas and max is 4: the ceiling is reached"},
		{`{"by":-2}`, 5, 3, ""},
		{`{"by":-2}`, 2, 1, ""},
		{`{"by":-2}`, 1, 0, "it has 1 replicas and min is 1: the floor is reached"},
		{`{"by":-2,"min":0}`, 1, 0, ""},
		{`{"by":-2,"min":0}`, 0, 0, "it has 0 replicas and min is 0: the floor is reached"},
	} {
		p, err := contract.Params(json.RawMessage(row.params), &ScaleParams{})
		require.NoError(t, err, row.params)
		got, err := p.wish(row.current)
		if row.err != "" {
			require.EqualError(t, err, row.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, row.want, got, "%s at %d", row.params, row.current)
	}
}

func TestWishKeepsItsBoundsAndItsDirection(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		minimum := rapid.Int64Range(0, 10).Draw(t, "min")
		maximum := rapid.Int64Range(max(minimum, 1), 20).Draw(t, "max")
		by := rapid.Int64Range(-15, 15).Filter(func(n int64) bool { return n != 0 }).Draw(t, "by")
		current := rapid.Int64Range(0, 30).Draw(t, "current")
		p := &ScaleParams{By: &by, Min: &minimum, Max: &maximum}
		require.NoError(t, p.Validate())
		got, err := p.wish(current)
		if err != nil {
			return
		}
		require.NotEqual(t, current, got)
		require.Equal(t, by > 0, got > current, "never against the wished direction")
		if by > 0 {
			require.LessOrEqual(t, got, maximum)
		} else {
			require.GreaterOrEqual(t, got, minimum)
		}
		require.LessOrEqual(t, max(got-current, current-got), max(by, -by))
	})
}
