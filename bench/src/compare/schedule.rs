//! Interleaving: in each round every contender has one turn, in the same order, A B C A B C …. What changes on the
//! machine from one minute to the next then changes for all of them.

/// Gives each of the contenders one turn a round and collects what `turn` answers for it, in the order of the rounds. A turn
/// that fails takes its contender out of the rounds that are left; its error is kept instead of samples.
pub fn interleave<C, S, E>(
    rounds: usize,
    contenders: &mut [C],
    mut turn: impl FnMut(usize, &mut C) -> Result<S, E>,
) -> Vec<Result<Vec<S>, E>> {
    let mut results: Vec<Result<Vec<S>, E>> = contenders.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..rounds {
        for (contender, result) in contenders.iter_mut().zip(&mut results) {
            let Ok(samples) = result else { continue };
            match turn(round, contender) {
                Ok(sample) => samples.push(sample),
                Err(error) => *result = Err(error),
            }
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate_and_a_failure_ends_only_its_own() {
        let mut order = Vec::new();
        let results = interleave(3, &mut [0, 1, 2], |round, &mut contender| {
            order.push((round, contender));
            if (round, contender) == (1, 1) { Err("broken") } else { Ok(round * 10 + contender) }
        });
        assert_eq!(order, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2)]);
        assert_eq!(results, [Ok(vec![0, 10, 20]), Err("broken"), Ok(vec![2, 12, 22])]);
    }
}
