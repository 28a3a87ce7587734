//! The sections of a source, one a dataset: `[sources.NAME.orders]`.

/// A source's own keys and, after them, a section for each dataset that says where it is;
/// a dataset without a section is not there.
///
/// The sections are fields like the others: what serde flattens it looks at last, so that
/// a key with a mistake would be told as the one that is missing, and without a name.
macro_rules! with_datasets {
    (
        $(#[$of_struct:meta])*
        pub struct $name:ident<$mapping:ty> {
            $($(#[$of_field:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$of_struct])*
        pub struct $name {
            $($(#[$of_field])* pub $field: $type,)*
            /// The orders.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub orders: Option<$mapping>,
            /// The orders' lines.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub order_items: Option<$mapping>,
            /// The customers.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub customers: Option<$mapping>,
            /// The catalog.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub products: Option<$mapping>,
            /// The carts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub carts: Option<$mapping>,
        }

        impl $name {
            /// The datasets with a section of their own.
            pub(in $crate::sources) fn mappings(
                &self,
            ) -> impl Iterator<Item = ($crate::sources::Dataset, &$mapping)> {
                use $crate::sources::Dataset;
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
        }
    };
}
pub(super) use with_datasets;

/// Refuses a source of no dataset; `others` ends the list of sections. The error continues a
/// section's name: `] ...`.
pub(super) fn check_any<M>(
    mut mappings: impl Iterator<Item = M>,
    others: &str,
) -> Result<(), String> {
    if mappings.next().is_some() {
        return Ok(());
    }
    Err(format!(
        "] says of no dataset where it is: add a section .orders, .order_items, .customers, \
         .products{others}"
    ))
}
