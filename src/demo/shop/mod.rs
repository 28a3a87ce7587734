//! The simulated shop: everything that the demo feeds to the pipeline follows
//! from a seed.
//!
//! A [`Shop`] is what the shop's own database would hold (catalog, customers,
//! orders) and what is still on its way (events of clients that are offline);
//! it is kept between two runs, so that the next run continues where the last
//! one ended. [`Shop::day`] simulates one calendar day (UTC) and returns the
//! HTTP requests that its clients make. The same seed, runs and number of
//! visitors give the same requests, byte for byte, but for `sentAt`.

pub mod catalog;
pub mod export_dynamodb;
pub mod export_rds;
pub mod journey;
pub mod orders;
pub mod rng;
pub mod traffic;
pub mod visitor;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use catalog::Catalog;
use journey::Visit;
use orders::{Customer, Order};
use rng::Rng;
use traffic::Request;
use visitor::{ARRIVALS, Visitor};

/// A UTC day.
pub const DAY_MS: i64 = 86_400_000;
/// Of the visitors of a run, as many in a hundred come back in the next one.
const RETURNING_PERCENT: u64 = 40;
/// Visits of one visitor in one run, at most.
const MAX_VISITS: u64 = 12;

/// Shop hours by weight: (hour of the local day, weight).
const HOURS: &[(i64, u32)] = &[
    (0, 2),
    (1, 1),
    (2, 1),
    (5, 1),
    (6, 3),
    (7, 6),
    (8, 8),
    (9, 9),
    (10, 10),
    (11, 10),
    (12, 12),
    (13, 11),
    (14, 9),
    (15, 9),
    (16, 10),
    (17, 11),
    (18, 13),
    (19, 16),
    (20, 18),
    (21, 15),
    (22, 9),
    (23, 4),
];

/// The shop's database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shop {
    pub seed: u64,
    pub catalog: Catalog,
    /// By visitor.
    pub customers: BTreeMap<u64, Customer>,
    pub orders: Vec<Order>,
    pub next_order: u64,
    /// What clients recorded offline and will send on a later day.
    pub held: Vec<Held>,
}

/// A request that waits for its client to be online again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub until_day: i64,
    pub request: Request,
}

/// Who comes when in one run.
pub struct Plan {
    run: u64,
    visitors: u64,
    /// (start, visitor, number of the visit), in order.
    visits: Vec<(i64, u64, u64)>,
}

impl Shop {
    /// A shop on the eve of its first day.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            catalog: Catalog::generate(seed),
            customers: BTreeMap::new(),
            orders: Vec::new(),
            next_order: 10_001,
            held: Vec::new(),
        }
    }

    /// Plans a run of `visitors` visitors over `days` days from `first_day`
    /// (days since 1970-01-01). Runs count from 1.
    pub fn plan(&self, run: u64, first_day: i64, days: i64, visitors: u64) -> Plan {
        let first_visitor = (run - 1) * visitors * (100 - RETURNING_PERCENT) / 100;
        let mut visits = Vec::new();
        for visitor in first_visitor..first_visitor + visitors {
            let mut rng = Rng::of(&[self.seed, 0x9EAD, run, visitor]);
            let offset = Visitor::of(self.seed, visitor).place.offset_hours;
            let count = (1 + rng.wait(1.1) as u64).min(MAX_VISITS);
            for nth in 0..count {
                let day = first_day + rng.range(0, days);
                let hour = (rng.weighted(HOURS) - offset).rem_euclid(24);
                let start = day * DAY_MS + hour * 3_600_000 + rng.range(0, 3_600_000);
                visits.push((start, visitor, nth));
            }
        }
        visits.sort_unstable();
        Plan { run, visitors, visits }
    }

    /// Simulates `day`, which must be the plan's next; returns what clients send on it.
    pub fn day(&mut self, plan: &Plan, day: i64) -> Vec<Request> {
        let mut night = Rng::of(&[self.seed, 0x0516, day.unsigned_abs()]);
        self.catalog.overnight(&mut night);
        let mut requests = self.release(day);
        let from = plan.visits.partition_point(|(start, ..)| *start < day * DAY_MS);
        let to = plan.visits.partition_point(|(start, ..)| *start < (day + 1) * DAY_MS);
        for (start, number, nth) in &plan.visits[from..to] {
            let mut rng = Rng::of(&[self.seed, 0x7151, plan.run, *number, *nth]);
            let visitor = Visitor::of(self.seed, *number);
            let arrival = rng.weighted(ARRIVALS);
            let device = rng.pick(&visitor.devices);
            let visit = Visit { visitor: &visitor, device, arrival, start_ms: *start };
            let messages = journey::walk(self, visit, &mut rng);
            if visitor.blocks_tracker {
                continue;
            }
            let sent = traffic::pack(device.client, visitor.skew_ms, messages, &mut rng);
            if rng.chance(traffic::OFFLINE) {
                let until_day = day + rng.range(1, traffic::MAX_OFFLINE_DAYS + 1);
                self.held.extend(sent.into_iter().map(|mut request| {
                    request.late_days = until_day - day;
                    Held { until_day, request }
                }));
            } else {
                requests.extend(sent);
            }
        }
        let mut rng = Rng::of(&[self.seed, 0xDA11, day.unsigned_abs()]);
        requests.extend(traffic::crawlers(self, day, plan.visitors, &mut rng));
        requests.extend(traffic::staff(self, day, &mut rng));
        requests.extend(traffic::refunds(self, day, &mut rng));
        requests.extend(traffic::malformed(day, plan.visitors, &mut rng));
        requests
    }

    fn release(&mut self, day: i64) -> Vec<Request> {
        let (due, waiting): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.until_day <= day);
        self.held = waiting;
        due.into_iter().map(|held| held.request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulate(seed: u64) -> (Shop, Vec<Request>) {
        let mut shop = Shop::new(seed);
        let plan = shop.plan(1, 20_000, 4, 400);
        let requests = (20_000..20_004).flat_map(|day| shop.day(&plan, day)).collect();
        (shop, requests)
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_another_seed_others() {
        let (shop, requests) = simulate(7);
        assert_eq!((&shop, &requests), (&simulate(7).0, &simulate(7).1));
        assert_ne!(requests, simulate(8).1);
        let body = |r: &Request| r.body("key", 1_700_000_000_000).expect("a body").bytes;
        let again = simulate(7).1;
        assert!(requests.iter().zip(&again).all(|(a, b)| body(a) == body(b)));
    }

    #[test]
    fn message_ids_are_unique_but_for_what_is_sent_twice_on_purpose() {
        let (_, requests) = simulate(7);
        let mut seen = std::collections::HashMap::<&str, u32>::new();
        for message in requests.iter().flat_map(|r| &r.messages) {
            *seen.entry(&message.id).or_default() += 1;
        }
        let twice = seen.values().filter(|n| **n > 1).count();
        assert!(twice > 0 && twice * 50 < seen.len(), "{twice} of {}", seen.len());
    }

    #[test]
    fn every_fault_and_every_kind_of_client_occurs() {
        let (shop, requests) = simulate(7);
        for fault in traffic::Fault::ALL {
            assert!(requests.iter().any(|r| r.fault == Some(*fault)), "{fault:?}");
        }
        for client in ["BrowserSingle", "BrowserBatch", "App", "Server"] {
            assert!(requests.iter().any(|r| format!("{:?}", r.client) == client), "{client}");
        }
        assert!(requests.iter().any(|r| r.late_days > 0));
        assert!(requests.iter().any(|r| r.bot));
        assert!(requests.iter().any(|r| r.skew_ms != 0));
        assert!(shop.orders.iter().any(|o| !o.tracked));
        assert!(shop.orders.iter().any(|o| o.tracked));
    }

    #[test]
    fn a_shop_survives_being_written_down() {
        let (shop, _) = simulate(7);
        let text = serde_json::to_string(&shop).expect("serialises");
        assert_eq!(serde_json::from_str::<Shop>(&text).expect("parses"), shop);
    }

    #[test]
    fn totals_of_orders_add_up() {
        let (shop, _) = simulate(7);
        for order in &shop.orders {
            let goods: i64 = order.lines.iter().map(|l| l.unit_price * l.quantity).sum();
            assert_eq!(order.subtotal, goods);
            assert_eq!(order.total, goods - order.discount + order.tax + order.shipping);
        }
    }
}
