//! The example orders: 300 of them, the same each time.
//!
//! About four in a hundred are invalid in business terms (nothing bought, a quantity of 0, a country without
//! delivery …), one in ten pays by invoice, and a few card tokens tell the payment service what to
//! do; the other orders' fates follow from its seed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use serde::Serialize;

use crate::{paths, say};

const COUNT: u32 = 300;
const SEED: u64 = 0x006c_6576_6572_6574;
/// Milliseconds between two orders at most.
const GAP_MS_MAX: u64 = 900_000;
/// 2026-03-02T06:00:00Z, a Monday.
const OPENING_MS: u64 = 1_772_431_200_000;

const FIRST_NAMES: [&str; 16] = [
    "Amelie",
    "Bruno",
    "Carla",
    "Dmitri",
    "Elif",
    "Finn",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Katarzyna",
    "Luca",
    "Maja",
    "Noor",
    "Oscar",
    "Zoë",
];
const LAST_NAMES: [&str; 14] = [
    "Almeida",
    "Becker",
    "Conti",
    "Dubois",
    "Eriksson",
    "Fischer",
    "García",
    "Horvat",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Novák",
    "Yılmaz",
];
/// Countries with delivery, repeated as often as they order.
const COUNTRIES: [&str; 12] = [
    "DE", "DE", "DE", "FR", "FR", "NL", "AT", "IT", "ES", "SE", "PL", "BE",
];
/// SKU, name, unit price in cents, how many one buys at most.
const CATALOGUE: [(&str, &str, u32, u32); 14] = [
    ("BOOT-TRAIL-42", "Trail running shoes", 12_990, 1),
    ("SOCK-MERINO-M", "Merino socks", 1_499, 6),
    ("JACK-RAIN-L", "Rain jacket", 18_900, 1),
    ("LAMP-HEAD-400", "Head lamp, 400 lumen", 4_995, 2),
    ("BOTTLE-SOFT-05", "Soft flask, 0.5 l", 1_999, 4),
    ("PACK-VEST-12", "Running vest, 12 l", 10_900, 1),
    ("GEL-BERRY-12", "Energy gels, box of 12", 2_388, 5),
    ("WATCH-GPS-2", "GPS watch", 34_900, 1),
    ("POLE-CARBON-120", "Carbon poles, pair", 13_950, 1),
    ("TENT-ULTRA-2", "Tent for two", 42_900, 1),
    ("STOVE-GAS-MINI", "Gas stove", 3_990, 1),
    ("MAP-ALPS-25", "Hiking map 1:25,000", 1_190, 3),
    ("CAP-SUN-OS", "Sun cap", 2_495, 2),
    ("TAPE-KINESIO", "Kinesiology tape", 895, 8),
];

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
struct Order {
    order_id: String,
    customer: Customer,
    items: Vec<Item>,
    currency: &'static str,
    coupon: Option<&'static str>,
    payment: Payment,
    placed_at: String,
}

#[derive(Serialize)]
struct Customer {
    id: String,
    name: String,
    email: String,
    country: &'static str,
    tier: &'static str,
}

#[derive(Serialize)]
struct Item {
    sku: &'static str,
    name: &'static str,
    quantity: u32,
    unit_price_cents: u32,
}

#[derive(Serialize)]
struct Payment {
    method: &'static str,
    token: String,
}

/// Writes the file.
pub(crate) fn write() -> Result<()> {
    let path = path();
    fs::create_dir_all(path.parent().context("the file lies in no directory")?)?;
    fs::write(&path, jsonl()?)?;
    say(format_args!("wrote {COUNT} orders to {}", path.display()));
    Ok(())
}

/// Compares the file with what would be written.
pub(crate) fn check() -> Result<()> {
    let path = path();
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if text != jsonl()? {
        bail!(
            "{} is not what its generator makes; run `cargo xtask orders`",
            path.display()
        );
    }
    Ok(())
}

fn path() -> PathBuf {
    paths::root().join("examples/data/orders.jsonl")
}

/// One JSON object a line.
fn jsonl() -> Result<String> {
    let mut text = String::new();
    for order in orders() {
        writeln!(text, "{}", serde_json::to_string(&order)?)?;
    }
    Ok(text)
}

fn orders() -> Vec<Order> {
    let mut rng = Rng::with_seed(SEED);
    let mut placed_ms = OPENING_MS;
    let mut next = |number| {
        placed_ms += rng.u64(1..GAP_MS_MAX);
        let mut order = order(&mut rng, number, placed_ms);
        if number % 25 == 19 {
            spoil(&mut order, number / 25);
        }
        order
    };
    (1..=COUNT).map(&mut next).collect()
}

fn order(rng: &mut Rng, number: u32, placed_ms: u64) -> Order {
    Order {
        order_id: format!("ord-{number:06}"),
        customer: customer(rng),
        items: items(rng),
        currency: "EUR",
        coupon: (rng.u8(..100) < 18).then_some("SPRING10"),
        payment: payment(rng, number),
        placed_at: rfc3339(placed_ms),
    }
}

/// One of 180 customers; the same id is the same person.
fn customer(rng: &mut Rng) -> Customer {
    let id = rng.usize(..180);
    let first = FIRST_NAMES[id % FIRST_NAMES.len()];
    let last = LAST_NAMES[id / 3 % LAST_NAMES.len()];
    Customer {
        id: format!("cus-{:05}", 10_400 + id * 37),
        name: format!("{first} {last}"),
        email: format!("{}.{}{id}@example.com", ascii(first), ascii(last)),
        country: COUNTRIES[id * 7 % COUNTRIES.len()],
        tier: match id % 20 {
            0 | 1 => "gold",
            2..=6 => "silver",
            _ => "standard",
        },
    }
}

/// Mostly one to three positions, no article twice.
fn items(rng: &mut Rng) -> Vec<Item> {
    let count = [1, 1, 1, 2, 2, 2, 3, 3, 4, 6][rng.usize(..10)];
    rng.choose_multiple(CATALOGUE, count)
        .into_iter()
        .map(|(sku, name, unit_price_cents, most)| Item {
            sku,
            name,
            quantity: rng.u32(1..=most),
            unit_price_cents,
        })
        .collect()
}

fn payment(rng: &mut Rng, number: u32) -> Payment {
    let draw = (rng.u8(..100), rng.u64(..1 << 48));
    // One of each kind among the first 25 orders, so that a short demo shows them all.
    let fate = match number % 75 {
        3 => "flaky_",
        7 => "declined_",
        11 => "stalled_",
        15 => "down_",
        _ => "",
    };
    let method = if draw.0 < 10 && fate.is_empty() {
        "invoice"
    } else {
        "card"
    };
    Payment {
        method,
        token: format!("tok_{fate}{:012x}", draw.1),
    }
}

/// Makes an order invalid, in the way of its number.
fn spoil(order: &mut Order, way: u32) {
    match way % 6 {
        0 => order.items.clear(),
        1 => order.items[0].quantity = 0,
        2 => order.customer.country = "XX",
        3 => order.currency = "EURO",
        4 => order.customer.email = "not an address".into(),
        _ => order.payment.token.clear(),
    }
}

fn ascii(name: &str) -> String {
    let plain = |letter| match letter {
        'á' => 'a',
        'ë' => 'e',
        'í' | 'ı' => 'i',
        other => other,
    };
    name.to_lowercase().chars().map(plain).collect()
}

/// Milliseconds since 1970 within March 2026 as `2026-03-02T06:00:00Z`.
fn rfc3339(ms: u64) -> String {
    let seconds = (ms - OPENING_MS) / 1_000 + 6 * 3_600;
    let (day, second) = (2 + seconds / 86_400, seconds % 86_400);
    assert!(day <= 31, "the orders do not fit into the month");
    format!(
        "2026-03-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// The order's own reasons to be refused, as the example workflow sees them.
#[cfg(test)]
fn is_valid(order: &Order) -> bool {
    !order.items.is_empty()
        && order.items.iter().all(|item| item.quantity > 0)
        && COUNTRIES.contains(&order.customer.country)
        && order.currency == "EUR"
        && order.customer.email.contains('@')
        && order.payment.token.starts_with("tok_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The committed file is what the generator makes.
    #[test]
    fn the_file_is_current() {
        check().unwrap();
    }

    /// The spread that the examples promise: 4 % invalid, some invoices, totals from small to large.
    #[test]
    fn the_orders_are_a_mix() {
        let orders = orders();
        let invalid = orders.iter().filter(|order| !is_valid(order)).count();
        assert_eq!((orders.len(), invalid), (300, 12));
        let invoices = orders
            .iter()
            .filter(|order| order.payment.method == "invoice")
            .count();
        assert!((20..=45).contains(&invoices), "{invoices} invoices");
        let told = |fate| {
            orders
                .iter()
                .filter(|order| order.payment.token.starts_with(fate))
                .count()
        };
        assert_eq!(
            ["tok_flaky_", "tok_declined_", "tok_stalled_", "tok_down_"].map(told),
            [4; 4]
        );
        let total = |order: &Order| {
            order
                .items
                .iter()
                .map(|item| item.quantity * item.unit_price_cents)
                .sum::<u32>()
        };
        let totals: Vec<u32> = orders.iter().map(total).collect();
        assert!(totals.iter().any(|total| (1..2_000).contains(total)));
        assert!(totals.iter().any(|total| *total > 60_000));
        let ids: BTreeSet<_> = orders.iter().map(|order| &order.order_id).collect();
        assert_eq!(ids.len(), 300);
    }

    /// The clock of the file runs into the next days.
    #[test]
    fn times_are_of_march() {
        assert_eq!(rfc3339(OPENING_MS), "2026-03-02T06:00:00Z");
        assert_eq!(
            rfc3339(OPENING_MS + 86_400_000 + 61_000),
            "2026-03-03T06:01:01Z"
        );
    }
}
