//! `edit`: changes entries of an object. Pure.

use async_trait::async_trait;
use leveret_core::{
    edit::{Path, kind},
    parse::ParamProblem,
};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted, is_template},
};

/// Parameters: `set`, a map from dotted paths to values; `remove`, a list of dotted paths. Output: the input, without what is removed, and
/// then with what is set.
pub(super) struct Edit;

/// The paths of `set` that parse.
fn paths(set: &Value) -> Vec<Path> {
    let keys = set.as_object().into_iter().flat_map(|set| set.keys());
    keys.filter_map(|key| key.parse().ok()).collect()
}

/// Two paths of which the second leads to a place within that of the first, if there are such. Paths that are sorted, key by key, have what they
/// hold behind them.
fn within(paths: &[Path]) -> Option<(&Path, &Path)> {
    let mut sorted: Vec<_> = paths.iter().collect();
    sorted.sort();
    let mut pairs = sorted.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.find(|(outer, inner)| outer.holds(inner))
}

#[async_trait]
impl NodeType for Edit {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["set", "remove"]);
        check.expect("set", check.optional("set"), Wanted::Object);
        let set = params.get("set").unwrap_or(&Value::Null);
        for key in set.as_object().into_iter().flat_map(|set| set.keys()) {
            if let Err(error) = key.parse::<Path>() {
                check.tell(&["set", key], error.to_string());
            }
        }
        if let Some((outer, inner)) = within(&paths(set)) {
            let message = format!("'{inner}' is within '{outer}', which is set too");
            check.tell(&["set", &inner.to_string()], message);
        }
        match check.optional("remove") {
            None => {}
            Some(Value::Array(paths)) => {
                for (at, path) in paths.iter().enumerate() {
                    let fault = match path {
                        path if is_template(path) => continue,
                        Value::String(path) => path.parse::<Path>().err().map(|e| e.to_string()),
                        other => Some(format!("a path is text, not {}", kind(other))),
                    };
                    if let Some(fault) = fault {
                        check.tell(&["remove", &at.to_string()], fault);
                    }
                }
            }
            Some(other) => {
                let message = format!("parameter 'remove' must be a list, not {}", kind(other));
                check.tell(&["remove"], message);
            }
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Value::Object(object) = ctx.input.value() else {
            let found = kind(ctx.input.value());
            let message = format!("the input must be an object, not {found}");
            return Err(NodeError::permanent(message));
        };
        let mut object = object.clone();
        for path in removed(&ctx.params)? {
            path.remove(&mut object);
        }
        match ctx.params.get("set") {
            None | Some(Value::Null) => {}
            Some(Value::Object(set)) => {
                let paths = paths(&ctx.params["set"]);
                if let Some((outer, inner)) = within(&paths) {
                    let message = format!("'{inner}' is within '{outer}', which is set too");
                    return Err(NodeError::permanent(message));
                }
                for (path, value) in set {
                    let path: Path = path.parse().map_err(permanent)?;
                    path.set(&mut object, value.clone()).map_err(permanent)?;
                }
            }
            Some(other) => {
                let found = kind(other);
                let message = format!("parameter 'set' must be an object, not {found}");
                return Err(NodeError::permanent(message));
            }
        }
        Ok(Value::Object(object).into())
    }
}

fn removed(params: &Value) -> Result<Vec<Path>, NodeError> {
    match params.get("remove") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(paths)) => paths
            .iter()
            .map(|path| match path {
                Value::String(path) => path.parse().map_err(permanent),
                other => {
                    let message = format!("a path of 'remove' is text, not {}", kind(other));
                    Err(NodeError::permanent(message))
                }
            })
            .collect(),
        Some(other) => {
            let message = format!("parameter 'remove' must be a list, not {}", kind(other));
            Err(NodeError::permanent(message))
        }
    }
}

fn permanent(error: impl std::error::Error) -> NodeError {
    NodeError::permanent(error.to_string())
}
