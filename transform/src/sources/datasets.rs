//! The sections of a source, one a dataset: `[sources.NAME.orders]`.

use serde::{Deserialize, Serialize};

use super::Dataset;

/// Where each dataset of a source is; one without a section is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Datasets<M> {
    /// The orders.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub orders: Option<M>,
    /// The orders' lines.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub order_items: Option<M>,
    /// The customers.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub customers: Option<M>,
    /// The catalog.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub products: Option<M>,
    /// The carts.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub carts: Option<M>,
}

impl<M> Datasets<M> {
    /// The datasets with a section of their own.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (Dataset, &M)> {
        [
            (Dataset::Orders, &self.orders),
            (Dataset::OrderItems, &self.order_items),
            (Dataset::Customers, &self.customers),
            (Dataset::ProductObservations, &self.products),
            (Dataset::Carts, &self.carts),
        ]
        .into_iter()
        .filter_map(|(dataset, mapping)| Some((dataset, mapping.as_ref()?)))
    }

    /// Refuses a source of none; `others` ends the list of sections. The error continues a
    /// section's name: `] ...`.
    pub(super) fn check_any(&self, others: &str) -> Result<(), String> {
        if self.mappings().next().is_some() {
            return Ok(());
        }
        Err(format!(
            "] says of no dataset where it is: add a section .orders, .order_items, .customers, \
             .products{others}"
        ))
    }
}

impl<M> Default for Datasets<M> {
    fn default() -> Self {
        Self { orders: None, order_items: None, customers: None, products: None, carts: None }
    }
}

/// Without asking for a default of `M`.
const fn none<M>() -> Option<M> {
    None
}
