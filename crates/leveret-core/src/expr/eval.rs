//! Terms to values.

use std::{cmp::Ordering, collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    Budget, EvalError, EvalErrorKind, EvalScope, Values, functions,
    resolve::{Fold, FoldKind, Span, Term},
    shortened,
    syntax::Operator,
    text::Text,
    value::{self, Data, LIST_UNITS, MAP_UNITS},
};

/// An [`super::EvalError`] that does not know its expression yet.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: EvalErrorKind,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(kind: EvalErrorKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
        }
    }

    /// The failure of `expression`.
    pub(super) fn of(self, expression: &Arc<str>) -> EvalError {
        EvalError {
            expression: Arc::clone(expression),
            kind: self.kind,
            message: self.message,
        }
    }

    /// Whether there is nothing left to evaluate with.
    fn is_final(&self) -> bool {
        self.kind == EvalErrorKind::Work
    }
}

pub(super) type Outcome<T> = Result<T, Failure>;

/// Evaluates a term of the expression `source`.
pub(super) fn eval<'v>(
    term: &'v Term,
    scope: &'v EvalScope<'v>,
    source: &'v str,
    budget: &'v Budget,
) -> Outcome<Data<'v>> {
    let mut evaluation = Evaluation {
        scope,
        source,
        budget,
        locals: Vec::new(),
    };
    evaluation.term(term)
}

/// What an error costs that does not end the evaluation.
const FAILURE_UNITS: usize = 32;

/// What it costs to ask for a value of the run.
const ASKED_UNITS: usize = 4;

struct Evaluation<'v> {
    scope: &'v EvalScope<'v>,
    source: &'v str,
    budget: &'v Budget,
    locals: Vec<Data<'v>>,
}

impl<'v> Evaluation<'v> {
    fn term(&mut self, term: &'v Term) -> Outcome<Data<'v>> {
        self.budget.charge(1)?;
        match term {
            Term::Constant(value) => Ok(Data::from(value)),
            Term::Int(value) => Ok(Data::Int(*value)),
            Term::Local(slot) => Ok(self.locals[*slot].clone()),
            Term::Select(of, field, span) => {
                let of = self.term(of)?;
                of.charge_field(field, self.budget)?;
                of.field(field)
                    .ok_or_else(|| self.no_field(&of, field, *span))
            }
            Term::Index(of, index, span) => {
                let of = self.term(of)?;
                let index = self.term(index)?;
                self.element(&of, &index, *span)
            }
            Term::HasField(of, field, span) => {
                let of = self.term(of)?;
                if matches!(of, Data::Null) {
                    return Ok(Data::Bool(false));
                }
                if of.map_len().is_none() {
                    return Err(self.no_field(&of, field, *span));
                }
                of.charge_field(field, self.budget)?;
                Ok(Data::Bool(of.field(field).is_some()))
            }
            Term::HasNamed(of) => {
                self.charge_named(of)?;
                Ok(Data::Bool(self.named(of).is_some()))
            }
            Term::Not(of, span) => match self.term(of)? {
                Data::Bool(value) => Ok(Data::Bool(!value)),
                other => Err(self.wrong_type(*span, "`!` takes true or false", &other)),
            },
            Term::Negate(of, span) => match self.term(of)? {
                Data::Int(value) => self.int(value.checked_neg(), *span),
                Data::Double(value) => Ok(Data::Double(-value)),
                other => Err(self.wrong_type(*span, "`-` takes a number", &other)),
            },
            Term::Binary(operator, left, right, span) => {
                let left = self.term(left)?;
                let right = self.term(right)?;
                self.binary(*operator, &left, &right, *span)
            }
            Term::And(terms) => self.logic(terms, false),
            Term::Or(terms) => self.logic(terms, true),
            Term::Conditional(terms, span) => {
                let [condition, yes, no] = &**terms;
                match self.term(condition)? {
                    Data::Bool(true) => self.term(yes),
                    Data::Bool(false) => self.term(no),
                    other => Err(self.wrong_type(*span, "`?` takes true or false", &other)),
                }
            }
            Term::List(terms) => {
                self.budget.charge(LIST_UNITS)?;
                let elements = terms.iter().map(|term| self.term(term));
                Ok(Data::list(elements.collect::<Outcome<_>>()?))
            }
            Term::Map(entries, span) => self.map(entries, *span),
            Term::Call(function, terms, span) => {
                let arguments = terms
                    .iter()
                    .map(|term| self.term(term))
                    .collect::<Outcome<Vec<_>>>()?;
                functions::call(*function, &arguments, self.budget)
                    .map_err(|failure| self.in_context(*span, failure))
            }
            Term::Fold(fold) => self.fold(fold),
            Term::Secret(name) => {
                self.charge_named(term)?;
                self.secret(name)
            }
            named => {
                self.charge_named(named)?;
                self.named(named).ok_or_else(|| missing(named))
            }
        }
    }

    /// The value of a name; `None` when there is none now. See [`Evaluation::charge_named`].
    fn named(&self, term: &'v Term) -> Option<Data<'v>> {
        let scope = self.scope;
        let values: &'v dyn Values = scope.values;
        match term {
            Term::Input => Some(Data::from(scope.input)),
            Term::RunInput => Some(Data::from(scope.run_input)),
            Term::RunId => Some(Data::Text(Text::Borrowed(scope.run_id))),
            Term::ResultOutput => scope.result.map(|result| Data::from(result.output)),
            Term::ResultAction => scope.result.map(|result| match result.action {
                Some(action) => Data::Text(Text::Borrowed(action)),
                None => Data::Null,
            }),
            Term::Item => scope.item.map(|item| Data::from(item.item)),
            Term::ItemIndex => scope.item.map(|item| Data::Int(item.index as i128)),
            Term::NodeOutput(id) => values.node_output(id).map(Data::from),
            Term::NodeError(id) => values.node_error(id).map(Data::from),
            Term::Context(key) => values
                .context(key)
                .or_else(|| scope.run_input.get(&**key))
                .map(Data::from),
            _ => None,
        }
    }

    /// Charges for asking for a value of the run.
    fn charge_named(&self, term: &Term) -> Outcome<()> {
        match term {
            Term::NodeOutput(_) | Term::NodeError(_) | Term::Secret(_) => {
                self.budget.charge(ASKED_UNITS)
            }
            Term::Context(key) => {
                self.budget.charge(ASKED_UNITS)?;
                Data::from(self.scope.run_input).charge_field(key, self.budget)
            }
            _ => Ok(()),
        }
    }

    fn secret(&self, name: &str) -> Outcome<Data<'v>> {
        match self.scope.values.secret(name) {
            Some(secret) => {
                self.budget.charge_bytes(secret.len())?;
                Ok(Data::text(secret))
            }
            None => Err(Failure::new(
                EvalErrorKind::Secret,
                format!("there is no secret `{name}`"),
            )),
        }
    }

    fn element(&self, of: &Data<'v>, index: &Data<'v>, span: Span) -> Outcome<Data<'v>> {
        match (of.list_len(), index) {
            (Some(len), Data::Int(at)) => usize::try_from(*at)
                .ok()
                .and_then(|at| of.element(at))
                .ok_or_else(|| {
                    let message = format!("the index is outside of the list's {len} elements");
                    self.at(span, EvalErrorKind::Missing, &message)
                }),
            (None, Data::Text(field)) => {
                of.charge_field(field, self.budget)?;
                of.field(field)
                    .ok_or_else(|| self.no_field(of, field, span))
            }
            _ => {
                let message = format!("cannot index {} with {}", of.type_name(), index.type_name());
                Err(self.at(span, EvalErrorKind::Type, &message))
            }
        }
    }

    /// `&&` and `||`: the operand that decides wins over an error beside it, as CEL has it.
    fn logic(&mut self, terms: &'v [(Term, Span)], deciding: bool) -> Outcome<Data<'v>> {
        let mut failure = None;
        for (term, span) in terms {
            let outcome = self.term(term).and_then(|value| match value {
                Data::Bool(value) => Ok(value),
                other => Err(self.wrong_type(*span, "a condition must be true or false", &other)),
            });
            match outcome {
                Ok(value) if value == deciding => return Ok(Data::Bool(deciding)),
                Ok(_) => {}
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    self.budget.charge(FAILURE_UNITS)?;
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(Data::Bool(!deciding)), Err)
    }

    fn binary(
        &self,
        operator: Operator,
        left: &Data<'v>,
        right: &Data<'v>,
        span: Span,
    ) -> Outcome<Data<'v>> {
        match operator {
            Operator::Equal => value::equal(left, right, self.budget).map(Data::Bool),
            Operator::NotEqual => {
                value::equal(left, right, self.budget).map(|equal| Data::Bool(!equal))
            }
            Operator::In => self.contains(right, left, span).map(Data::Bool),
            Operator::Less => self.order(operator, left, right, span, Ordering::is_lt),
            Operator::LessOrEqual => self.order(operator, left, right, span, Ordering::is_le),
            Operator::Greater => self.order(operator, left, right, span, Ordering::is_gt),
            Operator::GreaterOrEqual => self.order(operator, left, right, span, Ordering::is_ge),
            _ => self.arithmetic(operator, left, right, span),
        }
    }

    fn order(
        &self,
        operator: Operator,
        left: &Data<'v>,
        right: &Data<'v>,
        span: Span,
        accept: impl Fn(Ordering) -> bool,
    ) -> Outcome<Data<'v>> {
        let ordering = match (left, right) {
            (Data::Text(a), Data::Text(b)) => Some(value::compare_texts(a, b, self.budget)?),
            (Data::Bool(a), Data::Bool(b)) => Some(a.cmp(b)),
            _ => value::compare_numbers(left, right),
        };
        ordering
            .map(|ordering| Data::Bool(accept(ordering)))
            .ok_or_else(|| self.no_operator(operator, left, right, span))
    }

    fn arithmetic(
        &self,
        operator: Operator,
        left: &Data<'v>,
        right: &Data<'v>,
        span: Span,
    ) -> Outcome<Data<'v>> {
        match (left, right) {
            (Data::Int(a), Data::Int(b)) => self.int_arithmetic(operator, *a, *b, span),
            (Data::Double(a), Data::Double(b)) => Ok(double_arithmetic(operator, *a, *b)),
            (Data::Int(a), Data::Double(b)) => Ok(double_arithmetic(operator, *a as f64, *b)),
            (Data::Double(a), Data::Int(b)) => Ok(double_arithmetic(operator, *a, *b as f64)),
            (Data::Text(a), Data::Text(b)) if operator == Operator::Add => {
                self.budget.charge_bytes(a.len() + b.len())?;
                Ok(Data::text([&**a, &**b].concat()))
            }
            _ => match (left.list_len(), right.list_len()) {
                (Some(a), Some(b)) if operator == Operator::Add => {
                    self.budget.charge(a + b)?;
                    let ahead = (0..a).filter_map(|at| left.element(at));
                    let behind = (0..b).filter_map(|at| right.element(at));
                    Ok(Data::list(ahead.chain(behind).collect()))
                }
                _ => Err(self.no_operator(operator, left, right, span)),
            },
        }
    }

    fn int_arithmetic(
        &self,
        operator: Operator,
        a: i128,
        b: i128,
        span: Span,
    ) -> Outcome<Data<'v>> {
        let divides = matches!(operator, Operator::Divide | Operator::Remainder);
        if divides && b == 0 {
            return Err(self.at(span, EvalErrorKind::Arithmetic, "division by zero"));
        }
        let value = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide => a.checked_div(b),
            _ => a.checked_rem(b),
        };
        self.int(value, span)
    }

    /// A whole number, if JSON's numbers hold it.
    fn int(&self, value: Option<i128>, span: Span) -> Outcome<Data<'v>> {
        let range = i128::from(i64::MIN)..=i128::from(u64::MAX);
        value
            .filter(|value| range.contains(value))
            .map(Data::Int)
            .ok_or_else(|| self.at(span, EvalErrorKind::Arithmetic, "a whole number overflows"))
    }

    fn contains(&self, of: &Data<'v>, value: &Data<'v>, span: Span) -> Outcome<bool> {
        if let Some(len) = of.list_len() {
            return value::contains(of, len, value, self.budget);
        }
        match (of.map_len(), value) {
            (Some(_), Data::Text(key)) => {
                of.charge_field(key, self.budget)?;
                Ok(of.field(key).is_some())
            }
            _ => Err(self.no_operator(Operator::In, value, of, span)),
        }
    }

    fn map(&mut self, entries: &'v [(Term, Term)], span: Span) -> Outcome<Data<'v>> {
        let mut map = BTreeMap::new();
        self.budget.charge(MAP_UNITS)?;
        for (key, value) in entries {
            let key = match self.term(key)? {
                Data::Text(key) => key,
                other => return Err(self.wrong_type(span, "a key must be a string", &other)),
            };
            let value = self.term(value)?;
            self.budget.charge_lookup(&key, map.len())?;
            if map.insert(key, value).is_some() {
                return Err(self.at(span, EvalErrorKind::Type, "a key appears twice"));
            }
        }
        Ok(Data::Map(Rc::new(map)))
    }

    fn fold(&mut self, fold: &'v Fold) -> Outcome<Data<'v>> {
        let range = self.term(&fold.range)?;
        let entries = match range.map_len() {
            Some(_) => Some(range.entries(self.budget)?),
            None => None,
        };
        let len = match (&entries, range.list_len()) {
            (Some(entries), _) => entries.len(),
            (None, Some(len)) => len,
            _ => {
                return Err(self.wrong_type(fold.span, "this goes over a list or a map", &range));
            }
        };
        let elements = (0..len).map(|at| match &entries {
            Some(entries) => Data::Text(entries[at].0.clone()),
            None => range.element(at).unwrap_or(Data::Null),
        });
        match fold.kind {
            FoldKind::All => self.fold_logic(fold, elements, false),
            FoldKind::Exists => self.fold_logic(fold, elements, true),
            FoldKind::ExistsOne => self.fold_one(fold, elements),
            FoldKind::Map | FoldKind::Filter => self.fold_list(fold, elements),
        }
    }

    /// Evaluates a part of a fold with the variable set.
    fn with_local(&mut self, local: Data<'v>, term: &'v Term) -> Outcome<Data<'v>> {
        self.locals.push(local);
        let value = self.term(term);
        self.locals.pop();
        value
    }

    /// Whether an element passes the fold's filter.
    fn passes(&mut self, fold: &'v Fold, element: &Data<'v>) -> Outcome<bool> {
        let Some(filter) = &fold.filter else {
            return Ok(true);
        };
        match self.with_local(element.clone(), filter)? {
            Data::Bool(value) => Ok(value),
            other => Err(self.wrong_type(fold.span, "a condition must be true or false", &other)),
        }
    }

    fn fold_logic(
        &mut self,
        fold: &'v Fold,
        elements: impl Iterator<Item = Data<'v>>,
        deciding: bool,
    ) -> Outcome<Data<'v>> {
        let mut failure = None;
        for element in elements {
            match self.passes(fold, &element) {
                Ok(value) if value == deciding => return Ok(Data::Bool(deciding)),
                Ok(_) => {}
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    self.budget.charge(FAILURE_UNITS)?;
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(Data::Bool(!deciding)), Err)
    }

    fn fold_one(
        &mut self,
        fold: &'v Fold,
        elements: impl Iterator<Item = Data<'v>>,
    ) -> Outcome<Data<'v>> {
        let mut count = 0;
        for element in elements {
            count += usize::from(self.passes(fold, &element)?);
        }
        Ok(Data::Bool(count == 1))
    }

    fn fold_list(
        &mut self,
        fold: &'v Fold,
        elements: impl Iterator<Item = Data<'v>>,
    ) -> Outcome<Data<'v>> {
        self.budget.charge(LIST_UNITS)?;
        let mut list = Vec::new();
        for element in elements {
            if !self.passes(fold, &element)? {
                continue;
            }
            list.push(match &fold.body {
                Some(body) => self.with_local(element, body)?,
                None => element,
            });
        }
        Ok(Data::list(list))
    }

    fn text(&self, span: Span) -> &'v str {
        &self.source[span.start as usize..span.end as usize]
    }

    fn at(&self, span: Span, kind: EvalErrorKind, message: &str) -> Failure {
        self.in_context(span, Failure::new(kind, message))
    }

    /// Names the part of the expression that failed, unless it is all of it.
    fn in_context(&self, span: Span, mut failure: Failure) -> Failure {
        let text = self.text(span);
        if text.len() < self.source.trim().len() {
            failure.message = format!("in `{}`: {}", shortened(text), failure.message);
        }
        failure
    }

    fn wrong_type(&self, span: Span, rule: &str, found: &Data<'_>) -> Failure {
        let message = format!("{rule}, not {}", found.type_name());
        self.at(span, EvalErrorKind::Type, &message)
    }

    fn no_operator(
        &self,
        operator: Operator,
        left: &Data<'_>,
        right: &Data<'_>,
        span: Span,
    ) -> Failure {
        let (left, sign, right) = (left.type_name(), operator.sign(), right.type_name());
        self.at(
            span,
            EvalErrorKind::Type,
            &format!("there is no {left} {sign} {right}"),
        )
    }

    fn no_field(&self, of: &Data<'_>, field: &str, span: Span) -> Failure {
        if of.map_len().is_some() {
            let message = format!("there is no field `{field}`");
            return self.at(span, EvalErrorKind::Missing, &message);
        }
        let message = format!("{} has no field `{field}`", of.type_name());
        let kind = match of {
            Data::Null => EvalErrorKind::Missing,
            _ => EvalErrorKind::Type,
        };
        self.at(span, kind, &message)
    }
}

fn double_arithmetic<'v>(operator: Operator, a: f64, b: f64) -> Data<'v> {
    Data::Double(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        _ => a % b,
    })
}

/// Why a name has no value.
fn missing(term: &Term) -> Failure {
    let message = match term {
        Term::NodeOutput(id) => format!("node `{id}` has no output"),
        Term::NodeError(id) => format!("node `{id}` has no error"),
        Term::Context(key) => format!("there is no context key `{key}`"),
        Term::Item | Term::ItemIndex => "there is no list whose item this could be".to_owned(),
        _ => "`result` exists on edges only".to_owned(),
    };
    Failure::new(EvalErrorKind::Missing, message)
}
