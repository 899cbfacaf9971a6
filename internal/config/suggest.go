package config

import "strings"

// didYouMean returns ` (did you mean "x"?)` for the known name closest to got,
// "" when none is close enough to be a slip of the finger.
func didYouMean(got string, known []string) string {
	best, bestDistance := "", len(got)/3+1
	for _, name := range known {
		if d := distance(strings.ToLower(got), strings.ToLower(name)); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return ` (did you mean "` + best + `"?)`
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
