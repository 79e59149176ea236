//! Functions on lists and maps.

use std::{cmp::Ordering, collections::BTreeMap, rc::Rc};

use super::{Budget, Data, EvalErrorKind, Failure, Outcome, value, wrong};

/// The place of the first element that equals a value; -1 if there is none.
pub(super) fn index_of<'v>(
    list: &Data<'v>,
    wanted: &Data<'v>,
    budget: &Budget,
) -> Outcome<Data<'v>> {
    for at in 0..list.list_len().unwrap_or(0) {
        let element = list.element(at).unwrap_or(Data::Null);
        if value::equal(&element, wanted, budget)? {
            return Ok(Data::Int(at as i128));
        }
    }
    Ok(Data::Int(-1))
}

fn elements<'v>(name: &str, list: &Data<'v>, budget: &Budget) -> Outcome<Vec<Data<'v>>> {
    let len = list.list_len().ok_or_else(|| wrong(name, list))?;
    budget.charge(value::LIST_UNITS + len)?;
    Ok((0..len).filter_map(|at| list.element(at)).collect())
}

/// Numbers by value, or texts by their characters' numbers; equal ones stay in their order.
pub(super) fn sort<'v>(list: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let mut elements = elements("sort", list, budget)?;
    let comparisons = elements.len() * (1 + elements.len().max(1).ilog2() as usize);
    let bytes = elements.iter().map(|element| match element {
        Data::Text(text) => text.len(),
        _ => 0,
    });
    let longest = bytes.max().unwrap_or(0);
    budget.charge(comparisons.saturating_mul(1 + longest / 16))?;
    let mut is_mixed = false;
    elements.sort_by(|a, b| match (a, b) {
        (Data::Text(a), Data::Text(b)) => a.cmp(b),
        _ => value::compare_numbers(a, b).unwrap_or_else(|| {
            is_mixed = true;
            Ordering::Equal
        }),
    });
    // A single element is compared with none.
    let is_sortable =
        |element: &Data<'_>| matches!(element, Data::Text(_) | Data::Int(_) | Data::Double(_));
    if is_mixed || !elements.iter().all(is_sortable) {
        return Err(Failure::new(
            EvalErrorKind::Type,
            "`sort` takes numbers, or texts, not both and nothing else",
        ));
    }
    Ok(Data::list(elements))
}

/// The elements of the lists in a list, and its other elements. Lists within those stay.
pub(super) fn flatten<'v>(list: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let mut flat = Vec::new();
    for element in elements("flatten", list, budget)? {
        if element.list_len().is_some() {
            flat.extend(elements("flatten", &element, budget)?);
        } else {
            flat.push(element);
        }
    }
    Ok(Data::list(flat))
}

/// The entries of two maps; of a key that both have, the other's.
pub(super) fn merge<'v>(map: &Data<'v>, other: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    for data in [map, other] {
        if data.map_len().is_none() {
            return Err(wrong("merge", data));
        }
    }
    budget.charge(value::MAP_UNITS)?;
    let mut merged: BTreeMap<_, _> = map.entries(budget)?.into_iter().collect();
    for (key, value) in other.entries(budget)? {
        budget.charge_lookup(&key, merged.len())?;
        merged.insert(key, value);
    }
    Ok(Data::Map(Rc::new(merged)))
}
