package playbooks

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/alertmedic/alertmedic/internal/action"
)

// factsType is opaque: facts can be asked for by name only, so that a fact
// that is unknown is an error and never a zero.
var factsType = cel.ObjectType("playbooks.facts")

// factsVar is `facts` in conditions.
type factsVar struct {
	facts Facts
	now   time.Time
}

// ConvertToNative implements ref.Val.
func (f factsVar) ConvertToNative(t reflect.Type) (any, error) {
	if reflect.TypeOf(f).AssignableTo(t) {
		return f, nil
	}
	return nil, fmt.Errorf("facts cannot become a %s", t)
}

// ConvertToType implements ref.Val.
func (f factsVar) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case factsType:
		return f
	case types.TypeType:
		return factsType
	}
	return types.NewErr("facts cannot become a %s", t.TypeName())
}

// Equal implements ref.Val.
func (f factsVar) Equal(other ref.Val) ref.Val {
	o, ok := other.(factsVar)
	return types.Bool(ok && f == o)
}

// Type implements ref.Val.
func (f factsVar) Type() ref.Type { return factsType }

// Value implements ref.Val.
func (f factsVar) Value() any { return f }

// factFunctions declares the facts that a condition may ask for.
func factFunctions() cel.EnvOption {
	self := []*cel.Type{factsType}
	options := []cel.EnvOption{
		cel.Function(functionRolledOut, cel.MemberOverload("facts_rolled_out_within_string",
			[]*cel.Type{factsType, cel.StringType}, cel.BoolType, cel.BinaryBinding(rolledOutWithin))),
		cel.Function("restarts", cel.MemberOverload("facts_restarts", self, cel.IntType,
			cel.UnaryBinding(numberFact("restarts", func(f Facts) *int64 { return f.Restarts })))),
		cel.Function("replicas", cel.MemberOverload("facts_replicas", self, cel.IntType,
			cel.UnaryBinding(numberFact("replicas", func(f Facts) *int64 { return f.Replicas })))),
		cel.Function("revisions", cel.MemberOverload("facts_revisions", self, cel.IntType,
			cel.UnaryBinding(numberFact("revisions", func(f Facts) *int64 { return f.Revisions })))),
		cel.Function("hpa", cel.MemberOverload("facts_hpa", self, cel.BoolType, cel.UnaryBinding(hpaFact))),
	}
	return func(env *cel.Env) (*cel.Env, error) {
		var err error
		for _, o := range options {
			if env, err = o(env); err != nil {
				return nil, err
			}
		}
		return env, nil
	}
}

// ErrUnknownFact is in the chain of an evaluation error whose cause is a fact
// that could not be observed.
var ErrUnknownFact = errors.New("unknown fact")

func unknownFact(name string) ref.Val {
	return types.WrapErr(fmt.Errorf("facts.%s(): %w: it was not observed", name, ErrUnknownFact))
}

func rolledOutWithin(self, arg ref.Val) ref.Val {
	f, ok := self.(factsVar)
	if !ok {
		return types.MaybeNoSuchOverloadErr(self)
	}
	s, ok := arg.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	within, err := action.ParseDuration(s)
	if err != nil {
		return types.WrapErr(fmt.Errorf("facts.%s: %w", functionRolledOut, err))
	}
	if f.facts.RolledOutAt == nil {
		return unknownFact(functionRolledOut)
	}
	return types.Bool(f.now.Sub(*f.facts.RolledOutAt) <= within.Std())
}

func numberFact(name string, of func(Facts) *int64) func(ref.Val) ref.Val {
	return func(self ref.Val) ref.Val {
		f, ok := self.(factsVar)
		if !ok {
			return types.MaybeNoSuchOverloadErr(self)
		}
		n := of(f.facts)
		if n == nil {
			return unknownFact(name)
		}
		return types.Int(*n)
	}
}

func hpaFact(self ref.Val) ref.Val {
	f, ok := self.(factsVar)
	if !ok {
		return types.MaybeNoSuchOverloadErr(self)
	}
	if f.facts.HPA == nil {
		return unknownFact("hpa")
	}
	return types.Bool(*f.facts.HPA)
}
