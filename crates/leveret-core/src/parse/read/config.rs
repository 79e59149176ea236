//! The configuration of a node: attempts, times, fallback and join.

use std::time::Duration;

use serde_json::Value;

use super::Reader;
use crate::{
    parse::{diagnostics::Problem, fields::Field},
    time::parse_duration,
    workflow::{ATTEMPTS_MAX, DURATION_MAX, Join, NodeConfig, RETRY_FACTOR_MAX},
};

/// The fields of a configuration.
pub(super) const KEYS: [&str; 8] = [
    "maxRetries",
    "retryDelay",
    "retryDelayMax",
    "retryFactor",
    "retryJitter",
    "timeout",
    "fallback",
    "joinStrategy",
];

impl Reader<'_, '_, '_> {
    /// Reads the configuration of the node `ix`; `None` with a problem told.
    pub(super) fn config(&mut self, ix: usize, node: &Field<'_>) -> Option<NodeConfig> {
        let default = NodeConfig::default();
        let Some(field) = node.get("config") else {
            return Some(default);
        };
        let object = field.object(self.report, "`config`")?;
        field.warn_of_unknown(self.report, object, &KEYS);
        let attempts = self.number(&field, "maxRetries", 1.0, f64::from(ATTEMPTS_MAX));
        let attempts = self.whole(&field, "maxRetries", attempts);
        let delay = self.duration(&field, "retryDelay");
        let delay_max = self.duration(&field, "retryDelayMax");
        let factor = self.number(&field, "retryFactor", 1.0, RETRY_FACTOR_MAX);
        let jitter = self.number(&field, "retryJitter", 0.0, 1.0);
        let timeout = self.timeout(&field);
        let fallback = self.fallback(ix, &field);
        let join = self.join(&field);

        let retry_delay = delay?.unwrap_or(default.retry_delay);
        let retry_delay_max = match delay_max? {
            Some(most) if most < retry_delay => {
                let problem =
                    Problem::error("out-of-range", "`retryDelayMax` is less than `retryDelay`");
                field.tell(self.report, problem);
                return None;
            }
            most => most.unwrap_or(default.retry_delay_max.max(retry_delay)),
        };
        let jitter = jitter?.unwrap_or(default.retry_jitter);
        Some(NodeConfig {
            attempts_max: attempts?.unwrap_or(default.attempts_max),
            retry_delay,
            retry_delay_max,
            retry_factor: factor?.unwrap_or(default.retry_factor),
            retry_jitter: if retry_delay.is_zero() { 0.0 } else { jitter },
            timeout: timeout?,
            fallback: fallback?,
            join: join?,
        })
    }

    /// A number within bounds, if it is there.
    fn number(&mut self, of: &Field<'_>, key: &str, least: f64, most: f64) -> Option<Option<f64>> {
        let Some(field) = of.get(key) else {
            return Some(None);
        };
        let Some(number) = field.value.as_f64() else {
            field.wrong_type(self.report, &format!("`{key}`"), "a number");
            return None;
        };
        if !(least..=most).contains(&number) {
            let message = format!("`{key}` is {least} to {most}, not {number}");
            let problem = Problem::error("out-of-range", message);
            let counts_all = key == "maxRetries" && number < least;
            field.tell(
                self.report,
                if counts_all {
                    problem.help("it counts executions in all, the first included")
                } else {
                    problem
                },
            );
            return None;
        }
        Some(Some(number))
    }

    fn whole(
        &mut self,
        of: &Field<'_>,
        key: &str,
        number: Option<Option<f64>>,
    ) -> Option<Option<u32>> {
        let number = number?;
        let field = of.get(key);
        if let (Some(number), Some(field)) = (number, field)
            && number.fract() != 0.0
        {
            let problem = Problem::error("wrong-type", format!("`{key}` must be a whole number"));
            field.tell(self.report, problem);
            return None;
        }
        Some(number.map(|number| number as u32))
    }

    /// A time, if it is there: milliseconds, or a text such as `250ms`, `10s`, `5m`, `1h` or `2d`.
    fn duration(&mut self, of: &Field<'_>, key: &str) -> Option<Option<Duration>> {
        let Some(field) = of.get(key) else {
            return Some(None);
        };
        let ms = match field.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => parse_duration(text).map(|time| time.as_millis() as f64),
            _ => None,
        };
        let Some(ms) = ms else {
            let problem = Problem::error("bad-duration", format!("`{key}` is not a time"))
                .help("a time is a number of milliseconds, or as in \"250ms\", \"10s\", \"5m\", \"1h\", \"2d\"");
            field.tell(self.report, problem);
            return None;
        };
        if !(0.0..=DURATION_MAX.as_millis() as f64).contains(&ms) {
            let days = DURATION_MAX.as_secs() / 86_400;
            let message = format!("`{key}` is 0 to {days} days");
            field.tell(self.report, Problem::error("out-of-range", message));
            return None;
        }
        Some(Some(Duration::from_secs_f64(ms / 1000.0)))
    }

    fn timeout(&mut self, of: &Field<'_>) -> Option<Option<Duration>> {
        let timeout = self.duration(of, "timeout")?;
        match (timeout, of.get("timeout")) {
            (Some(time), Some(field)) if time.is_zero() => {
                let problem = Problem::error("out-of-range", "`timeout` must be more than 0")
                    .help("leave it out for no timeout");
                field.tell(self.report, problem);
                None
            }
            _ => Some(timeout),
        }
    }

    fn fallback(&mut self, ix: usize, of: &Field<'_>) -> Option<Option<usize>> {
        let Some(field) = of.get("fallback") else {
            return Some(None);
        };
        let fallback = self.node_named(&field, "`fallback`", "unknown-fallback")?;
        if fallback == ix {
            let problem = Problem::error("self-fallback", "a node cannot be its own fallback");
            field.tell(self.report, problem);
            return None;
        }
        if self.fallback_of.insert(fallback, ix).is_some() {
            let name = field.value.as_str().unwrap_or_default();
            let message = format!("`{name}` is the fallback of another node already");
            let problem = Problem::error("shared-fallback", message)
                .help("give each node a fallback of its own");
            field.tell(self.report, problem);
            return None;
        }
        Some(Some(fallback))
    }

    fn join(&mut self, of: &Field<'_>) -> Option<Join> {
        let Some(field) = of.get("joinStrategy") else {
            return Some(Join::default());
        };
        match field.text(self.report, "`joinStrategy`")? {
            "all" => Some(Join::All),
            "any" => Some(Join::Any),
            _ => {
                let message = "`joinStrategy` is `all` or `any`";
                field.tell(self.report, Problem::error("bad-value", message));
                None
            }
        }
    }
}
