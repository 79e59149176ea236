//! "Did you mean": the known name nearest to an unknown one.

/// Names longer than this are not compared.
const LENGTH_MAX: usize = 64;

/// How much work one misspelling is worth: letters that are looked at, and pairs of letters that are compared. Candidates beyond are not looked at.
const WORK_MAX: usize = 250_000;

/// The candidate that a misspelling most likely means; `None` when none is near.
///
/// Near is at most a third of the letters changed, missing or too many, or the same but for upper and lower case. The work is bounded: of many
/// thousand candidates, the first ones are looked at.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().chars().collect();
    if name.len() > LENGTH_MAX {
        return None;
    }
    let mut work = WORK_MAX;
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        // A character has up to four bytes.
        if candidate.len() > 2 * LENGTH_MAX || 6 * candidate.len() < name.len() {
            work = work.saturating_sub(1);
            continue;
        }
        let letters: Vec<char> = candidate.to_lowercase().chars().collect();
        let most = name.len().max(letters.len()) / 3;
        let is_likely = name.len().abs_diff(letters.len()) <= most;
        let pairs = if is_likely {
            name.len() * letters.len()
        } else {
            0
        };
        let Some(left) = work.checked_sub(1 + letters.len() + pairs) else {
            break;
        };
        work = left;
        if !is_likely {
            continue;
        }
        let found = (distance(&name, &letters), candidate);
        if found.0 <= most && best.is_none_or(|best| found < best) {
            best = Some(found);
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row[j] = least;
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred misspellings among 15,000 names that all look alike take no time that anybody would notice.
    #[test]
    fn the_work_is_bounded() {
        let known: Vec<String> = (0..15_000)
            .map(|n| format!("a-rather-long-name-of-a-node-{n:08}"))
            .collect();
        for n in 0..100 {
            let mut looked_at = 0;
            let candidates = known.iter().map(|id| {
                looked_at += 1;
                &**id
            });
            let near = nearest(&format!("a-rather-long-nmae-of-a-node-{n:08}"), candidates);
            assert_eq!(near, Some(&*known[n]));
            let pairs = looked_at * known[n].len() * known[n].len();
            assert!(pairs < 2 * WORK_MAX, "{looked_at} candidates");
        }
    }

    #[test]
    fn finds_misspellings_and_nothing_far() {
        let known = ["maxRetries", "retryDelay", "target", "config"];
        let check = |name, expect| assert_eq!(nearest(name, known), expect);
        check("maxRetry", Some("maxRetries"));
        check("tagret", Some("target"));
        check("confg", Some("config"));
        check("CONFIG", Some("config"));
        check("position", None);
        check("x", None);
    }
}
