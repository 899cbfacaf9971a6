package playbooks

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Limits of one evaluation. A condition over a thousand alerts costs some
// thousands; the limit is a quarter of what the API server allows one of its
// expressions, and is reached within a fraction of a second.
const (
	maxConditionCost    = 250_000
	conditionCheckEvery = 100 // turns of a loop between looks at the context
	maxConditionLength  = 16 << 10
	variableAlert       = "alert"
	functionRolledOut   = "rolledOutWithin"
)

// Condition is a compiled CEL expression that yields a boolean. It is immutable
// and safe for concurrent use.
type Condition struct {
	source    string
	program   cel.Program
	alertOnly bool
	constant  *bool
}

// alertVar is `alert` and an item of `alerts`. It is typed, so that a
// misspelled field fails when the playbook is loaded and not at night.
type alertVar struct {
	Labels      map[string]string `cel:"labels"`
	Annotations map[string]string `cel:"annotations"`
	Status      string            `cel:"status"`
	Fingerprint string            `cel:"fingerprint"`
	StartsAt    time.Time         `cel:"startsAt"`
}

// runVar is `run`.
type runVar struct {
	ID       string    `cel:"id"`
	Playbook string    `cel:"playbook"`
	Remedy   string    `cel:"remedy"`
	Attempt  int64     `cel:"attempt"`
	Target   targetVar `cel:"target"`
}

// targetVar is `run.target`: what the run is bound to, in contrast to
// `target`, which is the object as it is now.
type targetVar struct {
	Cluster   string `cel:"cluster"`
	Kind      string `cel:"kind"`
	Namespace string `cel:"namespace"`
	Name      string `cel:"name"`
	UID       string `cel:"uid"`
	Pod       string `cel:"pod"`
	Container string `cel:"container"`
	NodePool  string `cel:"nodePool"`
	Zone      string `cel:"zone"`
}

// conditionEnv is built once: it is immutable, and building it is slow.
var conditionEnv = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(),
			cel.ValidateHomogeneousAggregateLiterals(),
		),
		// The libraries that the API server gives to its own expressions, so
		// that what works in an admission policy works here.
		library.URLs(), library.Regex(), library.Quantity(), library.IP(), library.CIDR(), library.Format(),
		library.SemverLib(library.SemverVersion(1)), library.Lists(library.ListsVersion(1)),
		ext.Strings(ext.StringsVersion(2)), ext.Sets(), ext.Lists(ext.ListsVersion(3)), ext.TwoVarComprehensions(),

		ext.NativeTypes(reflect.TypeFor[alertVar](), reflect.TypeFor[runVar](), reflect.TypeFor[targetVar](), ext.ParseStructTags(true)),
		cel.Variable(variableAlert, alertType),
		cel.Variable("alerts", cel.ListType(alertType)),
		cel.Variable("target", cel.DynType),
		cel.Variable("facts", factsType),
		cel.Variable("run", cel.ObjectType("playbooks.runVar")),
		cel.Variable("now", cel.TimestampType),
		cel.Function("label", cel.Overload("alert_label_string", []*cel.Type{alertType, cel.StringType}, cel.StringType,
			cel.BinaryBinding(labelOf))),
		factFunctions(),
	)
})

var alertType = cel.ObjectType("playbooks.alertVar")

// labelOf is label(alert, name): "" when the alert has no such label, as
// matchers see it.
func labelOf(alert, name ref.Val) ref.Val {
	a, ok := alert.Value().(alertVar)
	if !ok {
		return types.MaybeNoSuchOverloadErr(alert)
	}
	n, ok := name.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(name)
	}
	return types.String(a.Labels[n])
}

// CompileCondition compiles an expression. The error names every defect, each
// with its column in the expression.
func CompileCondition(source string) (*Condition, error) {
	if strings.TrimSpace(source) == "" {
		return nil, errors.New("is empty")
	}
	if len(source) > maxConditionLength {
		return nil, fmt.Errorf("is %d bytes long; at most %d are compiled", len(source), maxConditionLength)
	}
	env, err := conditionEnv()
	if err != nil {
		return nil, fmt.Errorf("prepare conditions: %w", err)
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, compileError(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("yields %s, not a boolean: compare it with something, as in (...) == true", checked.OutputType())
	}
	c := &Condition{source: source}
	if err := c.inspect(checked.NativeRep()); err != nil {
		return nil, err
	}
	c.program, err = env.Program(checked,
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost),
		cel.CostLimit(maxConditionCost),
		cel.CostTracking(&library.CostEstimator{}),
		cel.InterruptCheckFrequency(conditionCheckEvery),
	)
	if err != nil {
		return nil, fmt.Errorf("does not compile: %w", err)
	}
	return c, nil
}

func compileError(issues *cel.Issues) error {
	seen := map[string]bool{}
	var parts []string
	for _, e := range issues.Errors() {
		// The parser's own wording spans lines and lists grammar tokens.
		message, _, _ := strings.Cut(e.Message, "\n")
		message, _, _ = strings.Cut(message, " expecting {")
		part := message
		if e.Location.Line() > 0 { // the expression as a whole has none
			part = fmt.Sprintf("%s (at line %d, column %d of the expression)", message, e.Location.Line(), e.Location.Column()+1)
		}
		if !seen[part] {
			seen[part] = true
			parts = append(parts, part)
		}
	}
	return fmt.Errorf("does not compile: %s", strings.Join(parts, "; "))
}

// inspect finds out what the expression refers to.
func (c *Condition) inspect(tree *ast.AST) error {
	c.alertOnly = true
	var err error
	root := ast.NavigateAST(tree)
	if root.Kind() == ast.LiteralKind {
		if b, ok := root.AsLiteral().Value().(bool); ok {
			c.constant = &b
		}
	}
	for _, e := range ast.MatchDescendants(root, ast.AllMatcher()) {
		switch e.Kind() {
		case ast.IdentKind:
			switch e.AsIdent() {
			case "alerts", "target", "facts", "run", "now":
				c.alertOnly = false
			}
		case ast.CallKind:
			call := e.AsCall()
			if call.FunctionName() != functionRolledOut || len(call.Args()) != 1 || call.Args()[0].Kind() != ast.LiteralKind {
				continue
			}
			if s, ok := call.Args()[0].AsLiteral().Value().(string); ok {
				if _, parseErr := action.ParseDuration(s); parseErr != nil && err == nil {
					err = fmt.Errorf("%s: %w", functionRolledOut, parseErr)
				}
			}
		}
	}
	return err
}

// AlertOnly reports whether the condition looks at nothing but `alert`, so
// that it can be evaluated before a target is resolved.
func (c *Condition) AlertOnly() bool { return c == nil || c.alertOnly }

// never reports whether the condition is the literal false.
func (c *Condition) never() bool { return c != nil && c.constant != nil && !*c.constant }

// always reports whether the condition is the literal true, or not there.
func (c *Condition) always() bool { return c == nil || c.constant != nil && *c.constant }

// String returns the source; that of a nil condition, which always holds, is "".
func (c *Condition) String() string {
	if c == nil {
		return ""
	}
	return c.source
}

// Eval evaluates the condition; a nil condition holds. An error, which an
// unknown fact, a missing field, the cost limit or a done context causes, means
// that nothing is known, and callers deny.
func (c *Condition) Eval(ctx context.Context, vars Vars) (bool, error) {
	if c == nil {
		return true, nil
	}
	alerts := make([]alertVar, len(vars.Alerts))
	for i, a := range vars.Alerts {
		alerts[i] = newAlertVar(a)
	}
	var target any
	if vars.Target != nil {
		target = vars.Target
	}
	out, _, err := c.program.ContextEval(ctx, map[string]any{
		variableAlert: newAlertVar(vars.Alert),
		"alerts":      alerts,
		"target":      target,
		"facts":       factsVar{facts: vars.Facts, now: vars.Now},
		"run":         newRunVar(vars.Run),
		"now":         vars.Now,
	})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return false, fmt.Errorf("condition %s: %w", quote(c.source), err)
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("condition %s: yielded %s, not a boolean", quote(c.source), out.Type().TypeName())
	}
	return b, nil
}

func newAlertVar(a AlertData) alertVar {
	return alertVar{Labels: orEmpty(a.Labels), Annotations: orEmpty(a.Annotations), Status: a.Status,
		Fingerprint: a.Fingerprint, StartsAt: a.StartsAt}
}

// orEmpty makes `'x' in alert.labels` false instead of an error.
func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func newRunVar(r RunData) runVar {
	t := targetVar{Cluster: r.Target.Cluster, Kind: string(r.Target.Kind), Namespace: r.Target.Namespace,
		Name: r.Target.Name, UID: r.Target.UID, Container: r.Target.Container,
		NodePool: r.Target.NodePool, Zone: r.Target.Zone}
	if r.Target.Pod != nil {
		t.Pod = r.Target.Pod.Name
	}
	return runVar{ID: r.ID, Playbook: r.Playbook, Remedy: r.Remedy, Attempt: int64(r.Attempt), Target: t}
}
