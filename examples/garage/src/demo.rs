//! Of `garage demo`.

use crate::settings::DemoArgs;

pub(crate) async fn run(_args: &DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
