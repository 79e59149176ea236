//! The keys of a definition, and what is said of others.

use serde_json::{Map, Value};

use super::diagnostics::Problem;
use crate::suggest;

/// The keys of one kind of object.
pub(super) struct Keys {
    /// Those that mean something.
    pub(super) known: &'static [&'static str],
    /// What other tools call them, in lower case and without `_` and `-`, and what to do instead.
    others: &'static [(&'static str, Instead)],
    /// What means something elsewhere and nothing here, so that whoever wrote it waits for what never comes: an error. In lower case and without `_` and
    /// `-`.
    misplaced: &'static [(&'static str, Instead)],
    /// Those of editors, beside [`FOREIGN`].
    foreign: &'static [&'static str],
    /// What a key is told that is neither of these nor near a known one; `None` when it is of no interest here.
    unknown: Option<&'static str>,
}

/// What to do in the place of a key that means nothing.
enum Instead {
    /// Write this key.
    Key(&'static str),
    /// Do as this says.
    Help(&'static str),
}

use Instead::{Help, Key};

const EDGES_LEAD: Instead = Help("the order of nodes is in `edges`, a list of {source, target}");
const EDGES_DECIDE: Instead = Help("an edge has the `condition` under which its target runs");
const SCHEDULED: Instead = Help("a schedule stands beside the workflow: `leveret schedules put`");
const STARTED: Instead = Help(
    "what starts a run is not part of its workflow: a schedule, `leveret runs start`, or `POST /api/v1/workflows/{id}/runs`",
);
const RUN_INPUT: Instead =
    Help("the input of a run is not declared: expressions read it as `run.input`");
const NODE_INPUTS: Instead = Help("`inputs` stands beside `config`");

pub(super) const WORKFLOW: Keys = Keys {
    known: &["id", "nodes", "edges", "metadata", "secrets"],
    others: &[
        ("steps", Key("nodes")),
        ("tasks", Key("nodes")),
        ("jobs", Key("nodes")),
        ("connections", Key("edges")),
        ("transitions", Key("edges")),
        ("links", Key("edges")),
        ("config", Help("each node has a `config` of its own")),
        ("defaults", Help("each node has a `config` of its own")),
        ("timeout", Help("each node has a `config.timeout`")),
        ("retry", Help("each node has a `config.maxRetries`")),
        ("retries", Help("each node has a `config.maxRetries`")),
    ],
    misplaced: &[
        ("schedule", SCHEDULED),
        ("schedules", SCHEDULED),
        ("cron", SCHEDULED),
        ("trigger", STARTED),
        ("triggers", STARTED),
        ("on", STARTED),
        ("input", RUN_INPUT),
        ("inputs", RUN_INPUT),
        ("type", Help("a workflow has no type; each node `uses` one")),
        ("uses", Help("a workflow has no type; each node `uses` one")),
    ],
    foreign: &[],
    unknown: None,
};

pub(super) const NODE: Keys = Keys {
    known: &["id", "uses", "name", "params", "inputs", "config"],
    others: &[
        ("when", EDGES_DECIDE),
        ("if", EDGES_DECIDE),
        ("condition", EDGES_DECIDE),
        ("dependson", EDGES_LEAD),
        ("depends", EDGES_LEAD),
        ("needs", EDGES_LEAD),
        ("requires", EDGES_LEAD),
        ("after", EDGES_LEAD),
        ("runafter", EDGES_LEAD),
        ("next", EDGES_LEAD),
        ("then", EDGES_LEAD),
        ("goto", EDGES_LEAD),
        ("onsuccess", EDGES_LEAD),
        ("edges", EDGES_LEAD),
        ("with", Key("params")),
        ("args", Key("params")),
        ("arguments", Key("params")),
        ("parameters", Key("params")),
        ("settings", Key("params")),
        ("output", Key("params.output")),
        ("action", Key("params.action")),
        ("url", Key("params.url")),
        ("message", Key("params.message")),
        ("duration", Key("params.duration")),
        ("task", Key("uses")),
        ("kind", Key("uses")),
        ("function", Key("uses")),
        ("nodetype", Key("uses")),
        ("maxretries", Key("config.maxRetries")),
        ("retrydelay", Key("config.retryDelay")),
        ("retrydelaymax", Key("config.retryDelayMax")),
        ("retryfactor", Key("config.retryFactor")),
        ("retryjitter", Key("config.retryJitter")),
        ("retry", Key("config.maxRetries")),
        ("retries", Key("config.maxRetries")),
        ("attempts", Key("config.maxRetries")),
        ("maxattempts", Key("config.maxRetries")),
        ("timeout", Key("config.timeout")),
        ("fallback", Key("config.fallback")),
        ("onerror", Key("config.fallback")),
        ("onfailure", Key("config.fallback")),
        ("catch", Key("config.fallback")),
        ("join", Key("config.joinStrategy")),
        ("joinstrategy", Key("config.joinStrategy")),
    ],
    misplaced: &[
        ("schedule", SCHEDULED),
        ("schedules", SCHEDULED),
        ("cron", SCHEDULED),
        ("trigger", STARTED),
        ("triggers", STARTED),
    ],
    foreign: &[],
    unknown: None,
};

pub(super) const CONFIG: Keys = Keys {
    known: &[
        "maxRetries",
        "retryDelay",
        "retryDelayMax",
        "retryFactor",
        "retryJitter",
        "timeout",
        "fallback",
        "joinStrategy",
    ],
    others: &[
        ("retry", Key("maxRetries")),
        ("retries", Key("maxRetries")),
        ("attempts", Key("maxRetries")),
        ("maxattempts", Key("maxRetries")),
        ("attemptsmax", Key("maxRetries")),
        ("delay", Key("retryDelay")),
        ("backoff", Key("retryDelay")),
        ("retryinterval", Key("retryDelay")),
        ("maxdelay", Key("retryDelayMax")),
        ("backoffmax", Key("retryDelayMax")),
        ("factor", Key("retryFactor")),
        ("multiplier", Key("retryFactor")),
        ("backofffactor", Key("retryFactor")),
        ("jitter", Key("retryJitter")),
        ("deadline", Key("timeout")),
        ("onerror", Key("fallback")),
        ("onfailure", Key("fallback")),
        ("catch", Key("fallback")),
        ("join", Key("joinStrategy")),
        ("when", EDGES_DECIDE),
        ("if", EDGES_DECIDE),
        ("condition", EDGES_DECIDE),
        ("dependson", EDGES_LEAD),
        ("needs", EDGES_LEAD),
    ],
    misplaced: &[
        ("schedule", SCHEDULED),
        ("cron", SCHEDULED),
        ("trigger", STARTED),
        ("input", NODE_INPUTS),
        ("inputs", NODE_INPUTS),
        ("params", Help("`params` stands beside `config`")),
        ("type", Help("the type of a node is its `uses`")),
        ("uses", Help("`uses` stands beside `config`")),
    ],
    foreign: &[],
    unknown: Some(
        "there are maxRetries, retryDelay, retryDelayMax, retryFactor, retryJitter, timeout, fallback and joinStrategy",
    ),
};

pub(super) const EDGE: Keys = Keys {
    known: &["source", "target", "on", "action", "condition", "transform"],
    others: &[
        ("when", Key("condition")),
        ("if", Key("condition")),
        ("guard", Key("condition")),
        ("expression", Key("condition")),
        ("from", Key("source")),
        ("start", Key("source")),
        ("to", Key("target")),
        ("end", Key("target")),
        ("destination", Key("target")),
        ("event", Key("action")),
        ("outcome", Key("action")),
        ("map", Key("transform")),
        ("mapping", Key("transform")),
        ("onfailure", Help("write `on: failure`")),
        ("onerror", Help("write `on: failure`")),
    ],
    misplaced: &[
        ("input", Key("transform")),
        ("inputs", Key("transform")),
        ("schedule", SCHEDULED),
        ("trigger", STARTED),
    ],
    foreign: &[
        "ariaLabel",
        "deletable",
        "focusable",
        "hidden",
        "id",
        "interactionWidth",
        "labelBgBorderRadius",
        "labelBgPadding",
        "labelBgStyle",
        "labelShowBg",
        "labelStyle",
        "markerEnd",
        "markerStart",
        "name",
        "pathOptions",
        "reconnectable",
        "selectable",
        "updatable",
        "zIndex",
    ],
    unknown: Some("there are source, target, on, action, condition and transform"),
};

/// Keys that editors and compilers put beside ours, and that are never a misspelling.
const FOREIGN: [&str; 16] = [
    "_sourceLocation",
    "animated",
    "className",
    "comment",
    "data",
    "description",
    "label",
    "measured",
    "position",
    "selected",
    "sourceHandle",
    "style",
    "tags",
    "targetHandle",
    "type",
    "version",
];

impl Keys {
    /// The keys of an object that mean nothing and were probably meant to, each with what is said of it.
    pub(super) fn unknown<'a>(
        &'a self,
        object: &'a Map<String, Value>,
    ) -> impl Iterator<Item = (&'a str, Problem)> {
        object.keys().filter_map(|key| {
            if let Some(instead) = self.misplaced(key) {
                let message = format!("`{key}` means nothing here");
                let problem = Problem::error("misplaced-key", message).help(instead.told());
                return Some((key.as_str(), problem));
            }
            let help = self.help(key)?;
            let message = format!("`{key}` is not known and ignored");
            let problem = Problem::warning("unknown-key", message).help(help);
            Some((key.as_str(), problem))
        })
    }

    /// What to do in the place of a key; `None` when it is known or of no interest.
    fn help(&self, key: &str) -> Option<String> {
        let is_foreign = FOREIGN.contains(&key) || self.foreign.contains(&key);
        // What begins so is a remark of somebody, in most tools.
        if self.known.contains(&key) || is_foreign || key.starts_with(['_', '$']) {
            return None;
        }
        let near = || suggest::nearest(key, self.known.iter().copied());
        match found(self.others, key) {
            Some(instead) => Some(instead.told()),
            None => near().map(did_you_mean).or(self.unknown.map(str::to_owned)),
        }
    }

    fn misplaced(&self, key: &str) -> Option<&'static Instead> {
        let is_known = self.known.contains(&key);
        (!is_known).then(|| found(self.misplaced, key)).flatten()
    }
}

impl Instead {
    fn told(&self) -> String {
        match self {
            Key(known) => did_you_mean(known),
            Help(help) => (*help).to_owned(),
        }
    }
}

fn found(table: &'static [(&'static str, Instead)], key: &str) -> Option<&'static Instead> {
    let plain = key.replace(['_', '-'], "").to_lowercase();
    let found = table.iter().find(|(name, _)| *name == plain);
    found.map(|(_, instead)| instead)
}

fn did_you_mean(key: &str) -> String {
    format!("did you mean `{key}`?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_tools_are_told() {
        let check = |keys: &Keys, key: &str, expect: &str| {
            let help = keys
                .help(key)
                .unwrap_or_else(|| panic!("`{key}` is silent"));
            assert!(help.contains(expect), "{key}: {help}");
        };
        check(&EDGE, "when", "`condition`");
        check(&EDGE, "from", "`source`");
        check(&EDGE, "to", "`target`");
        check(&EDGE, "conditon", "`condition`");
        check(&EDGE, "zzz", "source, target, on, action");
        check(&CONFIG, "retries", "`maxRetries`");
        check(&CONFIG, "max_retries", "`maxRetries`");
        check(&CONFIG, "zzz", "joinStrategy");
        check(&NODE, "depends_on", "`edges`");
        check(&NODE, "if", "`condition`");
        check(&NODE, "retry", "`config.maxRetries`");
        check(&NODE, "retryDelay", "`config.retryDelay`");
        check(&NODE, "parms", "`params`");
        check(&WORKFLOW, "steps", "`nodes`");
    }

    #[test]
    fn keys_of_editors_are_silent() {
        let check = |keys: &Keys, silent: &[&str]| {
            for key in silent {
                assert_eq!(keys.help(key), None, "{key}");
            }
        };
        check(
            &EDGE,
            &["id", "label", "type", "markerEnd", "_sourceLocation"],
        );
        check(&NODE, &["position", "width", "parentId", "_x", "zzz"]);
        check(&WORKFLOW, &["viewport", "$schema", "name", "zzz"]);
        check(&CONFIG, &["_sourceLocation", "comment"]);
    }

    /// A key is looked up as it is compared.
    #[test]
    fn tables_are_plain() {
        for keys in [WORKFLOW, NODE, CONFIG, EDGE] {
            for (name, _) in keys.others.iter().chain(keys.misplaced) {
                let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase());
                assert!(is_plain && !keys.known.contains(name), "{name}");
            }
        }
    }
}
