//! A service of twenty lines: accounts that money is paid into. Its messages take effect once, and what follows from them arrives.

use std::sync::Arc;

use leveret::{
    broker::{self, Broker, Exchange, ExchangeKind, Message, Topology},
    core::time::Timestamp,
    runtime::{Clock, SystemClock},
    service::{
        Aggregate, Documents, Input, Kind, Next, Now, Of, Publish, Refusal, Service,
        ServiceOptions, Subscription, documents,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

#[derive(Serialize, Deserialize)]
struct Account {
    balance: i64,
}

#[derive(Deserialize)]
struct PayIn {
    account: String,
    amount: i64,
}

struct Accounts;

impl Aggregate for Accounts {
    const KIND: &'static str = "account";
    type State = Account;
    type Message = PayIn;

    fn id(message: &PayIn) -> String {
        message.account.clone()
    }

    fn decide(
        state: Option<Account>,
        message: &PayIn,
        _: Timestamp,
    ) -> Result<Next<Account>, Refusal> {
        let balance = state.map_or(0, |account| account.balance) + message.amount;
        let told =
            Message::json(json!({ "account": message.account, "balance": balance }).to_string());
        let event = Publish::event("accounts", "account.changed", told);
        Ok(Next::state(Account { balance }).publish([event]))
    }
}

fn kinds() -> [Kind; 1] {
    [Kind::new("account", &[])]
}

fn service(documents: Arc<dyn Documents>, broker: Arc<dyn Broker>, now: Now) -> Service {
    let mut options = ServiceOptions::new("accounts", now);
    options.topology = Topology {
        exchanges: vec![Exchange {
            name: "accounts".into(),
            kind: ExchangeKind::Topic,
        }],
        ..Topology::default()
    };
    let pay_in = Subscription::queue("pay_in", Of::<Accounts>::default(), |message| {
        let pay_in = serde_json::from_slice(&message.body).map_err(|error| error.to_string())?;
        Ok(Input::new(pay_in))
    });
    Service::builder(options, documents, broker)
        .subscribe(pay_in)
        .build()
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = broker::connect("memory:").await?;
    let documents = documents::connect("memory:", "accounts", &kinds()).await?;
    let service = service(documents, broker, Arc::new(|| SystemClock.now()));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let service = service.clone();
        async move { service.run(stopped).await }
    });

    // A call of this process is decided upon as a message is.
    let paid = PayIn {
        account: "ada".to_owned(),
        amount: 40,
    };
    let account = service.call(&Of::<Accounts>::default(), &paid).await?;
    assert_eq!(account.balance, 40);

    stop.send_replace(true);
    running.await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use leveret::{
        crash::Point,
        service::testing::{Parts, world},
    };

    use super::*;

    #[test]
    fn money_is_paid_in_once() {
        world(7, async |world| {
            let make = |parts: Parts| service(parts.documents, parts.broker, parts.now);
            let accounts = world.service("accounts", &kinds(), make).await;
            world.twice();
            world.shuffled();
            accounts.crash_at(Point::ServiceAfterCommit);
            let paid = json!({ "account": "ada", "amount": 40 });
            world.deliver("pay_in", paid).await;
            world.finish().await;
            let ada: Account = accounts.state("account", "ada").await.unwrap();
            assert_eq!(ada.balance, 40);
        });
    }
}
