//! Of `garage timeline`.

use crate::settings::TimelineArgs;

pub(crate) async fn show(_args: &TimelineArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
