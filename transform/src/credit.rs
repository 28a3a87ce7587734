//! How an order's worth is divided among the touches that led to it.
//!
//! A model gives each touch a weight, a whole number. A share is cut from the
//! cumulated sum: touch k gets floor(amount x w(1..k) / w) less what those before
//! it got. So shares are within one ten-thousandth of their exact value and add
//! up to the amount to the last digit, whatever the order of evaluation.

/// After so long a touch counts half in [`Model::TimeDecay`].
pub const HALF_LIFE_DAYS: f64 = 7.0;
/// The weight of a touch at the moment of the order in [`Model::TimeDecay`].
const FULL_WEIGHT: f64 = 1e9;
/// One, in the ten-thousandths in which credits are counted.
pub const WHOLE: i128 = 10_000;
const MICROS_A_DAY: f64 = 86_400_000_000.0;

/// How worth is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// All to the first touch.
    First,
    /// All to the last one.
    Last,
    /// All to the last one that is not direct; where all are, to the last.
    LastNonDirect,
    /// The same to each.
    Linear,
    /// 40 % to the first, 40 % to the last, the rest evenly to those between; of two each half.
    Position,
    /// Halved with every [`HALF_LIFE_DAYS`] between touch and order.
    TimeDecay,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::First,
        Self::Last,
        Self::LastNonDirect,
        Self::Linear,
        Self::Position,
        Self::TimeDecay,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::LastNonDirect => "last_non_direct",
            Self::Linear => "linear",
            Self::Position => "position",
            Self::TimeDecay => "time_decay",
        }
    }

    /// The weight of each touch; at least one is positive.
    #[must_use]
    pub fn weights(self, touches: &[Touch]) -> Vec<i128> {
        let count = touches.len();
        let only = |at: usize| (0..count).map(|touch| i128::from(touch == at)).collect();
        match self {
            Self::First => only(0),
            Self::Last => only(count.saturating_sub(1)),
            Self::LastNonDirect => {
                let marked = touches.iter().rposition(|touch| !touch.is_direct);
                only(marked.unwrap_or(count.saturating_sub(1)))
            }
            Self::Position if count > 2 => {
                let end = 2 * (count as i128 - 2);
                let is_end = |touch: usize| touch == 0 || touch + 1 == count;
                (0..count).map(|touch| if is_end(touch) { end } else { 1 }).collect()
            }
            Self::Linear | Self::Position => vec![1; count],
            Self::TimeDecay => touches
                .iter()
                .map(|touch| {
                    let days = touch.age_micros.max(0) as f64 / MICROS_A_DAY;
                    // Whole numbers from here on: a sum of doubles depends on its order.
                    ((FULL_WEIGHT * (-days / HALF_LIFE_DAYS).exp2()).round() as i128).max(1)
                })
                .collect(),
        }
    }
}

/// What the models ask of a touch.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// Its channel says nothing of where it came from.
    pub is_direct: bool,
    /// From its beginning to the order, microseconds.
    pub age_micros: i64,
}

/// Divides an amount by weights; the shares add up to it.
#[must_use]
pub fn divide(amount: i128, weights: &[i128]) -> Vec<i128> {
    let all: i128 = weights.iter().sum();
    let mut cumulated = 0;
    let mut given = 0;
    weights
        .iter()
        .map(|weight| {
            cumulated += weight;
            let until = (amount * cumulated).div_euclid(all.max(1));
            let share = until - given;
            given = until;
            share
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn touches(marks: &[(bool, i64)]) -> Vec<Touch> {
        let days = |days: i64| days * 86_400_000_000;
        marks
            .iter()
            .map(|(is_direct, age)| Touch { is_direct: *is_direct, age_micros: days(*age) })
            .collect()
    }

    #[test]
    fn each_model_weighs_as_it_says() {
        let four = touches(&[(false, 14), (true, 7), (false, 7), (true, 0)]);
        let credits = |model: Model| divide(WHOLE, &model.weights(&four));
        assert_eq!(credits(Model::First), [10_000, 0, 0, 0]);
        assert_eq!(credits(Model::Last), [0, 0, 0, 10_000]);
        assert_eq!(credits(Model::LastNonDirect), [0, 0, 10_000, 0]);
        assert_eq!(credits(Model::Linear), [2_500, 2_500, 2_500, 2_500]);
        assert_eq!(credits(Model::Position), [4_000, 1_000, 1_000, 4_000]);
        // 1/4 + 1/2 + 1/2 + 1 = 9/4.
        assert_eq!(credits(Model::TimeDecay), [1_111, 2_222, 2_222, 4_445]);
        let direct = touches(&[(true, 3), (true, 1)]);
        assert_eq!(Model::LastNonDirect.weights(&direct), [0, 1]);
        assert_eq!(Model::Position.weights(&direct), [1, 1]);
        let one = touches(&[(true, 400)]);
        for model in Model::ALL {
            assert_eq!(divide(WHOLE, &model.weights(&one)), [WHOLE], "{}", model.name());
        }
    }

    proptest! {
        #[test]
        fn shares_add_up_to_the_last_digit_and_are_off_by_less_than_one(
            amount in -10_i128.pow(18)..10_i128.pow(18),
            marks in prop::collection::vec((any::<bool>(), 0..60_i64), 1..100),
        ) {
            let touches = touches(&marks);
            for model in Model::ALL {
                let weights = model.weights(&touches);
                let shares = divide(amount, &weights);
                prop_assert_eq!(shares.iter().sum::<i128>(), amount);
                let all: i128 = weights.iter().sum();
                for (share, weight) in shares.iter().zip(&weights) {
                    prop_assert!((share * all - amount * weight).abs() < all);
                }
            }
        }
    }
}
