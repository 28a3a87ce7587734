//! What the shop's own database holds: customers and orders, and what happens
//! to an order after it was placed.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::catalog::Cents;
use super::journey::Visit;
use super::rng::Rng;
use super::{DAY_MS, Shop};

/// A row of the shop's customers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Customer {
    pub id: String,
    pub created_ms: i64,
    pub country: String,
    pub region: String,
    pub city: String,
    pub email_hash: String,
    pub marketing_consent: bool,
}

/// A row of the shop's orders, with its lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: String,
    pub number: u64,
    pub customer_id: String,
    pub ordered_ms: i64,
    pub status: Status,
    pub lines: Vec<Line>,
    pub subtotal: Cents,
    pub discount: Cents,
    pub tax: Cents,
    pub shipping: Cents,
    pub total: Cents,
    pub refunded: Cents,
    pub coupon: Option<String>,
    pub country: String,
    pub region: String,
    pub city: String,
    /// What the shop's own checkout noted of the channel.
    pub channel_hint: Option<String>,
    /// False where an ad blocker kept the tracker from seeing it.
    pub tracked: bool,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub product_id: String,
    /// Position in the catalog.
    pub product: usize,
    pub quantity: i64,
    pub unit_price: Cents,
    pub discount: Cents,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Placed,
    Shipped,
    Delivered,
    Cancelled,
    Returned,
}

impl Status {
    /// Its value in the orders table.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Returned => "returned",
        }
    }
}

/// A refund that the shop's server tells the collector of.
pub struct Refund {
    pub order: usize,
    pub amount: Cents,
    pub at_ms: i64,
}

/// Orders of at least this much are sent free of charge.
const FREE_SHIPPING_FROM: Cents = 75_00;
const SHIPPING: Cents = 4_90;
/// Percent of the goods' net value.
const TAX_PERCENT: Cents = 19;
/// The coupon that the newsletter gives away: ten percent off.
pub const COUPON: &str = "AUTUMN10";

impl Shop {
    /// The customer that this visitor is, entered in the books on the first occasion.
    pub fn customer_of(&mut self, visit: &Visit<'_>, at_ms: i64) -> String {
        let number = visit.visitor.number;
        let seed = self.seed;
        let customer = self.customers.entry(number).or_insert_with(|| {
            let place = visit.visitor.place;
            let email = format!("shopper-{seed}-{number}@customers.example");
            Customer {
                id: format!("C-{:06}", 100_000 + number),
                created_ms: at_ms,
                country: place.country.to_owned(),
                region: place.region.to_owned(),
                city: place.city.to_owned(),
                email_hash: hex(&Sha256::digest(email.as_bytes())),
                marketing_consent: visit.visitor.marketing_consent,
            }
        });
        customer.id.clone()
    }

    /// Enters an order for `cart` (positions in the catalog and quantities);
    /// returns its position in [`Shop::orders`].
    pub fn place_order(
        &mut self,
        visit: &Visit<'_>,
        cart: &[(usize, i64)],
        coupon: Option<&str>,
        at_ms: i64,
        rng: &mut Rng,
    ) -> usize {
        let customer_id = self.customer_of(visit, at_ms);
        let mut lines = Vec::with_capacity(cart.len());
        for (at, quantity) in cart {
            let product = &mut self.catalog.products[*at];
            product.stock = (product.stock - quantity).max(0);
            let discount = if coupon.is_some() { product.price * quantity / 10 } else { 0 };
            lines.push(Line {
                product_id: product.id.clone(),
                product: *at,
                quantity: *quantity,
                unit_price: product.price,
                discount,
            });
        }
        let subtotal: Cents = lines.iter().map(|line| line.unit_price * line.quantity).sum();
        let discount: Cents = lines.iter().map(|line| line.discount).sum();
        let shipping = if subtotal - discount >= FREE_SHIPPING_FROM { 0 } else { SHIPPING };
        let tax = (subtotal - discount) * TAX_PERCENT / 100;
        let place = visit.visitor.place;
        let number = self.next_order;
        self.next_order += 1;
        self.orders.push(Order {
            id: format!("SO-{number}"),
            number,
            customer_id,
            ordered_ms: at_ms,
            status: Status::Placed,
            lines,
            subtotal,
            discount,
            tax,
            shipping,
            total: subtotal - discount + tax + shipping,
            refunded: 0,
            coupon: coupon.map(str::to_owned),
            country: place.country.to_owned(),
            region: place.region.to_owned(),
            city: place.city.to_owned(),
            channel_hint: rng.chance(0.3).then(|| visit.arrival.name.to_owned()),
            tracked: !visit.visitor.blocks_tracker,
        });
        self.orders.len() - 1
    }

    /// The office corrects an order by hand after its event went out: the order
    /// row and the click then disagree.
    pub fn correct_order(&mut self, at: usize) {
        let order = &mut self.orders[at];
        order.shipping += 3_00;
        order.total += 3_00;
    }

    /// What happens to orders on `day`: sent, delivered, cancelled, returned.
    pub fn evening(&mut self, day: i64) -> Vec<Refund> {
        let mut refunds = Vec::new();
        for (at, order) in self.orders.iter_mut().enumerate() {
            let age = day - order.ordered_ms.div_euclid(DAY_MS);
            let mut fate = Rng::of(&[self.seed, 0x000F_A7E0, order.number]);
            let (cancels, returns) = (fate.chance(0.02), fate.chance(0.08));
            let return_after = fate.range(4, 11);
            let whole = fate.chance(0.7);
            let at_ms = day * DAY_MS + fate.range(9 * 3_600_000, 17 * 3_600_000);
            let refunded = match order.status {
                Status::Placed if age >= 1 && cancels => {
                    order.status = Status::Cancelled;
                    Some(order.total)
                }
                Status::Placed if age >= 1 => {
                    order.status = Status::Shipped;
                    None
                }
                Status::Shipped if age >= 3 => {
                    order.status = Status::Delivered;
                    None
                }
                Status::Delivered if returns && age >= return_after => {
                    order.status = Status::Returned;
                    let first = &order.lines[0];
                    let part = first.unit_price * first.quantity - first.discount;
                    Some(if whole { order.total - order.shipping } else { part })
                }
                _ => None,
            };
            if let Some(amount) = refunded {
                order.refunded = amount;
                refunds.push(Refund { order: at, amount, at_ms });
            }
        }
        refunds
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
