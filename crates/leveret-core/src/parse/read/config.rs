//! The configuration of a node: attempts, times, fallback and join.

use std::time::Duration;

use serde_json::Value;

use super::Reader;
use crate::{
    parse::{
        diagnostics::Problem,
        fields::{Checked, Field},
        keys,
    },
    time::parse_duration,
    workflow::{ATTEMPTS_MAX, DURATION_MAX, Join, NodeConfig, RETRY_FACTOR_MAX},
};

impl Reader<'_, '_, '_> {
    /// Reads the configuration of the node `ix`.
    pub(super) fn config(&mut self, ix: usize, node: &Field<'_>) -> Checked<NodeConfig> {
        let default = NodeConfig::default();
        let Some(field) = node.get("config") else {
            return Ok(default);
        };
        let object = field.object(self.report, "`config`")?;
        field.warn_of_unknown(self.report, object, &keys::CONFIG);
        // All fields are read before the first problem ends it, so that each problem is told.
        let attempts = self.attempts(&field);
        let delays = self.delays(&field, &default);
        let factor = self.number(&field, "retryFactor", 1.0, RETRY_FACTOR_MAX);
        let jitter = self.number(&field, "retryJitter", 0.0, 1.0);
        let timeout = self.timeout(&field);
        let fallback = self.fallback(ix, &field);
        let join = self.join(&field);

        let (retry_delay, retry_delay_max) = delays?;
        let jitter = jitter?.unwrap_or(default.retry_jitter);
        Ok(NodeConfig {
            attempts_max: attempts?,
            retry_delay,
            retry_delay_max,
            retry_factor: factor?.unwrap_or(default.retry_factor),
            retry_jitter: if retry_delay.is_zero() { 0.0 } else { jitter },
            timeout: timeout?,
            fallback: fallback?,
            join: join?,
        })
    }

    fn attempts(&mut self, of: &Field<'_>) -> Checked<u32> {
        let Some(field) = of.get("maxRetries") else {
            return Ok(1);
        };
        let attempts = self.number(of, "maxRetries", 1.0, f64::from(ATTEMPTS_MAX))?;
        match attempts {
            Some(attempts) if attempts.fract() == 0.0 => Ok(attempts as u32),
            _ => {
                let problem = Problem::error("wrong-type", "`maxRetries` must be a whole number");
                Err(field.tell(self.report, problem))
            }
        }
    }

    /// The first and the longest delay.
    fn delays(&mut self, of: &Field<'_>, default: &NodeConfig) -> Checked<(Duration, Duration)> {
        let delay = self.duration(of, "retryDelay");
        let most = self.duration(of, "retryDelayMax");
        let delay = delay?.unwrap_or(default.retry_delay);
        match (most?, of.get("retryDelayMax")) {
            (Some(most), Some(field)) if most < delay => {
                let message = "`retryDelayMax` is less than `retryDelay`";
                Err(field.tell(self.report, Problem::error("out-of-range", message)))
            }
            (most, _) => Ok((delay, most.unwrap_or(default.retry_delay_max.max(delay)))),
        }
    }

    /// A number within bounds, if it is there.
    fn number(&mut self, of: &Field<'_>, key: &str, least: f64, most: f64) -> Checked<Option<f64>> {
        let Some(field) = of.get(key) else {
            return Ok(None);
        };
        let Some(number) = field.value.as_f64() else {
            return Err(field.wrong_type(self.report, &format!("`{key}`"), "a number"));
        };
        if (least..=most).contains(&number) {
            return Ok(Some(number));
        }
        let message = format!("`{key}` is {least} to {most}, not {number}");
        let mut problem = Problem::error("out-of-range", message);
        if key == "maxRetries" && number < least {
            problem = problem.help("it counts executions in all, the first included");
        }
        Err(field.tell(self.report, problem))
    }

    /// A time, if it is there: milliseconds, or a text such as `250ms`, `10s`, `5m`, `1h` or `2d`.
    fn duration(&mut self, of: &Field<'_>, key: &str) -> Checked<Option<Duration>> {
        let Some(field) = of.get(key) else {
            return Ok(None);
        };
        let ms = match field.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => parse_duration(text).map(|time| time.as_millis() as f64),
            _ => None,
        };
        let Some(ms) = ms else {
            let problem = Problem::error("bad-duration", format!("`{key}` is not a time")).help(
                "a time is a number of milliseconds, or \"250ms\", \"10s\", \"5m\", \"1h\", \"2d\"",
            );
            return Err(field.tell(self.report, problem));
        };
        if !(0.0..=DURATION_MAX.as_millis() as f64).contains(&ms) {
            let days = DURATION_MAX.as_secs() / 86_400;
            let message = format!("`{key}` is 0 to {days} days");
            return Err(field.tell(self.report, Problem::error("out-of-range", message)));
        }
        Ok(Some(Duration::from_secs_f64(ms / 1000.0)))
    }

    /// None when it is 0.
    fn timeout(&mut self, of: &Field<'_>) -> Checked<Option<Duration>> {
        let timeout = self.duration(of, "timeout")?;
        Ok(timeout.filter(|time| !time.is_zero()))
    }

    fn fallback(&mut self, ix: usize, of: &Field<'_>) -> Checked<Option<usize>> {
        // An empty one is none, as it is for flowcraft.
        let field = of.get("fallback");
        let Some(field) = field.filter(|field| field.value.as_str() != Some("")) else {
            return Ok(None);
        };
        let fallback = self.node_named(&field, "`fallback`", "unknown-fallback")?;
        if fallback == ix {
            let problem = Problem::error("self-fallback", "a node cannot be its own fallback");
            return Err(field.tell(self.report, problem));
        }
        if self.fallback_of.insert(fallback, ix).is_some() {
            let name = field.value.as_str().unwrap_or_default();
            let message = format!("`{name}` is the fallback of another node already");
            let problem = Problem::error("shared-fallback", message)
                .help("give each node a fallback of its own");
            return Err(field.tell(self.report, problem));
        }
        Ok(Some(fallback))
    }

    fn join(&mut self, of: &Field<'_>) -> Checked<Join> {
        let Some(field) = of.get("joinStrategy") else {
            return Ok(Join::default());
        };
        match field.text(self.report, "`joinStrategy`")? {
            "all" => Ok(Join::All),
            "any" => Ok(Join::Any),
            _ => {
                let message = "`joinStrategy` is `all` or `any`";
                Err(field.tell(self.report, Problem::error("bad-value", message)))
            }
        }
    }
}
