//! Of `garage bench`.

use crate::settings::BenchArgs;

pub(crate) async fn run(_args: &BenchArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
