//! "Did you mean": the known name nearest to an unknown one.

/// Names longer than this are not compared.
const LENGTH_MAX: usize = 64;

/// The candidate that a misspelling most likely means; `None` when none is near.
///
/// Near is at most a third of the letters changed, missing or too many, or the same but for upper and lower case.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().chars().collect();
    if name.len() > LENGTH_MAX {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 2 * LENGTH_MAX)
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let most = name.len().max(letters.len()) / 3;
            if name.len().abs_diff(letters.len()) > most {
                return None;
            }
            let distance = distance(&name, &letters);
            (distance <= most).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
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
