//! The arithmetic of the benchmarks: quantiles, spreads, the bootstrap, arrival times, Zipf ranks. Pure: no clock, and
//! dice only from a seed, so that the same figures give the same answer.

use std::time::Duration;

use serde::Serialize;

/// Draws of a bootstrap.
const DRAWS_COUNT: usize = 10_000;

/// Median, lowest and highest of some figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Middle; the mean of the middle two of an even number.
    pub median: f64,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
}

/// The spread of figures; none of no figures.
pub fn spread(figures: &[f64]) -> Option<Spread> {
    let sorted = sorted(figures);
    Some(Spread { median: median_of_sorted(&sorted)?, min: *sorted.first()?, max: *sorted.last()? })
}

/// The median; none of no figures.
pub fn median(figures: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(figures))
}

/// The smallest of the figures that at least `share` (0 to 1) of them do not exceed: the nearest-rank quantile.
pub fn quantile(figures: &[u64], share: f64) -> Option<u64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

/// The 95 % confidence interval of the median by the percentile bootstrap (Efron 1979): medians of samples drawn with
/// replacement. With few rounds it is little more than their range, which is what few rounds can say.
pub fn bootstrap_95(figures: &[f64], seed: u64) -> Option<[f64; 2]> {
    if figures.is_empty() {
        return None;
    }
    let mut dice = Dice::new(seed);
    let mut medians = Vec::with_capacity(DRAWS_COUNT);
    let mut sample = Vec::with_capacity(figures.len());
    for _ in 0..DRAWS_COUNT {
        sample.clear();
        sample.extend((0..figures.len()).filter_map(|_| figures.get(dice.below(figures.len()))));
        sample.sort_by(f64::total_cmp);
        medians.extend(median_of_sorted(&sample));
    }
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians.get((share * (medians.len() - 1) as f64).round() as usize).copied();
    Some([at(0.025)?, at(0.975)?])
}

/// When the requests of an open loop are due, counted from its start: on average `rate` a second, each gap between a
/// half and one and a half of the mean, whether or not earlier ones were answered.
#[derive(Debug, Clone)]
pub struct Arrivals {
    dice: Dice,
    gap_ns: f64,
    next_ns: f64,
    end_ns: f64,
}

impl Arrivals {
    /// A schedule of so many requests a second for so long.
    pub fn new(rate: f64, time: Duration, seed: u64) -> Self {
        Self { dice: Dice::new(seed), gap_ns: 1e9 / rate, next_ns: 0.0, end_ns: time.as_nanos() as f64 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.next_ns >= self.end_ns {
            return None;
        }
        let due = Duration::from_nanos(self.next_ns as u64);
        self.next_ns += self.gap_ns * (0.5 + self.dice.unit());
        Some(due)
    }
}

/// Draws ranks from 0 with the probability of rank `r` in proportion to `1 / (r + 1)^exponent`.
#[derive(Debug, Clone)]
pub struct Zipf {
    cumulated: Vec<f64>,
    dice: Dice,
}

impl Zipf {
    /// Ranks under `count`.
    pub fn new(count: usize, exponent: f64, seed: u64) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        Self { cumulated, dice: Dice::new(seed) }
    }

    /// The next rank.
    pub fn draw(&mut self) -> usize {
        let at = self.dice.unit() * self.cumulated.last().copied().unwrap_or_default();
        self.cumulated.partition_point(|sum| *sum <= at).min(self.cumulated.len().saturating_sub(1))
    }
}

/// Dice from a seed (splitmix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same throws.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
    /// From 0 to under 1.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }
    /// From 0 to under `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end.saturating_sub(1))
    }
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let high = sorted.get(sorted.len() / 2)?;
    let low = if sorted.len().is_multiple_of(2) { sorted.get(sorted.len() / 2 - 1)? } else { high };
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    }

    #[test]
    fn a_quantile_is_a_figure_that_was_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(quantile(&hundred, 0.5), Some(50));
        assert_eq!(quantile(&hundred, 0.99), Some(99));
        assert_eq!(quantile(&hundred, 1.0), Some(100));
        assert_eq!(quantile(&[7], 0.99), Some(7));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_bootstrap_lies_inside_the_figures_and_around_their_median() {
        let figures = [1.00, 1.01, 0.99, 1.02, 1.00, 0.98, 1.01];
        let [low, high] = bootstrap_95(&figures, 1).unwrap();
        assert!((0.98..=1.0).contains(&low) && (1.0..=1.02).contains(&high), "{low} {high}");
        assert_eq!(bootstrap_95(&[2.0; 5], 1), Some([2.0, 2.0]));
        assert_eq!(bootstrap_95(&[], 1), None);
    }

    #[test]
    fn more_rounds_make_the_interval_narrower() {
        let mut dice = Dice::new(5);
        let many: Vec<f64> = (0..200).map(|_| dice.unit()).collect();
        let width = |figures: &[f64]| bootstrap_95(figures, 1).map(|[low, high]| high - low).unwrap();
        assert!(width(&many) < width(&many[..8]));
    }

    #[test]
    fn arrivals_keep_their_rate_and_never_bunch() {
        let due: Vec<Duration> = Arrivals::new(200.0, Duration::from_secs(100), 9).collect();
        assert!((19_800..=20_200).contains(&due.len()), "{}", due.len());
        for pair in due.windows(2) {
            let gap = pair[1] - pair[0];
            assert!((Duration::from_micros(2_499)..=Duration::from_micros(7_501)).contains(&gap), "{gap:?}");
        }
        assert_eq!(due, Arrivals::new(200.0, Duration::from_secs(100), 9).collect::<Vec<_>>());
        assert_ne!(due, Arrivals::new(200.0, Duration::from_secs(100), 8).collect::<Vec<_>>());
    }

    #[test]
    fn zipf_draws_the_first_rank_twice_as_often_as_the_second() {
        let mut zipf = Zipf::new(1_000, 1.0, 3);
        let mut counts = vec![0_u32; 1_000];
        (0..200_000).for_each(|_| counts[zipf.draw()] += 1);
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts[999] < counts[0] / 300);
    }
}
