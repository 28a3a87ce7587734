//! The catalog: a household shop's categories, brands, products, prices and stock.

use serde::{Deserialize, Serialize};

use super::rng::Rng;

/// Amounts are in cents of [`CURRENCY`].
pub type Cents = i64;
/// The shop sells in one currency, so that sums mean something.
pub const CURRENCY: &str = "EUR";

/// A product as the shop's own database knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Product {
    pub id: String,
    pub sku: String,
    pub name: String,
    pub brand: String,
    pub department: String,
    pub category: String,
    pub price: Cents,
    pub cost: Cents,
    pub stock: i64,
    pub active: bool,
    /// How often it is looked at, against the others.
    pub appeal: u32,
    /// How readily a look becomes a sale, in thousandths of the usual.
    pub sells: u32,
}

impl Product {
    pub fn category_path(&self) -> String {
        format!("{} > {}", self.department, self.category)
    }

    pub fn path(&self) -> String {
        format!("/p/{}", slug(&self.name))
    }
}

/// Everything on sale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    pub products: Vec<Product>,
    pub categories: Vec<Category>,
}

/// A category with its products' positions in [`Catalog::products`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Category {
    pub department: String,
    pub name: String,
    pub products: Vec<usize>,
    pub appeal: u32,
}

/// (department, category, things, price range in euros, how popular)
type Shelf = (&'static str, &'static str, &'static [&'static str], (i64, i64), u32);

const SHELVES: &[Shelf] = &[
    (
        "Kitchen",
        "Coffee & Tea",
        &[
            "Coffee Grinder",
            "Espresso Maker",
            "Teapot",
            "Pour-Over Set",
            "Milk Frother",
            "Travel Mug",
        ],
        (12, 95),
        22,
    ),
    (
        "Kitchen",
        "Cookware",
        &["Frying Pan", "Casserole", "Saucepan", "Wok", "Roasting Tin", "Griddle"],
        (24, 140),
        18,
    ),
    (
        "Kitchen",
        "Tableware",
        &["Dinner Plate", "Bowl", "Tumbler", "Cutlery Set", "Serving Board", "Carafe"],
        (6, 60),
        13,
    ),
    (
        "Kitchen",
        "Baking",
        &["Loaf Tin", "Rolling Pin", "Mixing Bowl", "Cake Stand", "Bread Basket"],
        (7, 45),
        8,
    ),
    (
        "Home",
        "Lighting",
        &["Desk Lamp", "Pendant Lamp", "Floor Lamp", "Wall Light", "Lantern"],
        (29, 220),
        14,
    ),
    ("Home", "Textiles", &["Throw", "Cushion", "Bed Linen", "Bath Towel", "Rug"], (15, 180), 12),
    (
        "Home",
        "Storage",
        &["Basket", "Shelf", "Coat Rack", "Drawer Box", "Shoe Bench"],
        (12, 130),
        9,
    ),
    (
        "Home",
        "Decoration",
        &["Vase", "Candle Holder", "Picture Frame", "Mirror", "Wall Clock"],
        (9, 110),
        11,
    ),
    (
        "Outdoor",
        "Garden",
        &["Watering Can", "Planter", "Hand Trowel", "Bird Feeder", "Garden Hose"],
        (8, 75),
        10,
    ),
    (
        "Outdoor",
        "Camping",
        &["Sleeping Bag", "Camp Stove", "Enamel Mug", "Head Torch", "Folding Chair"],
        (11, 160),
        9,
    ),
    (
        "Office",
        "Desk",
        &["Desk Mat", "Monitor Stand", "Pen Tray", "Book End", "Letter Tray"],
        (10, 85),
        7,
    ),
    (
        "Office",
        "Stationery",
        &["Notebook", "Fountain Pen", "Weekly Planner", "Sketchbook", "Pencil Case"],
        (4, 55),
        8,
    ),
];

const FINISHES: &[&str] =
    &["Oak", "Steel", "Linen", "Slate", "Copper", "Ash", "Cork", "Sage", "Indigo", "Chalk"];
const BRANDS: &[&str] =
    &["Norvell", "Hearthline", "Brae & Burn", "Kessa", "Umber", "Tallow Lane", "Fjelde", "Morro"];

impl Catalog {
    /// The catalog that belongs to this seed.
    pub fn generate(seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, 0xCA7A]);
        let (mut products, mut categories) = (Vec::new(), Vec::new());
        for (department, category, things, (low, high), appeal) in SHELVES {
            let mut members = Vec::new();
            for (nth, thing) in things.iter().enumerate() {
                for variant in 0..4 {
                    let number = products.len() + 1;
                    let finish = FINISHES[(nth * 3 + variant * 7 + number) % FINISHES.len()];
                    let euros = rng.range(*low, *high);
                    let price = euros * 100 + *rng.pick(&[0, 50, 90, 95]);
                    members.push(products.len());
                    products.push(Product {
                        id: format!("P-{number:04}"),
                        sku: format!("{}-{number:04}", department[..3].to_uppercase()),
                        name: format!("{finish} {thing}"),
                        brand: (*rng.pick(BRANDS)).to_owned(),
                        department: (*department).to_owned(),
                        category: (*category).to_owned(),
                        price,
                        cost: price * rng.range(38, 66) / 100,
                        stock: rng.range(30, 400),
                        active: true,
                        // A long tail: a few products get most of the looks.
                        appeal: (1_000.0 / (1.0 + rng.wait(6.0) * 3.0)) as u32 + 8,
                        sells: *rng.weighted(&[
                            (1_000, 60),
                            (1_500, 15),
                            (600, 15),
                            (150, 6),
                            (0, 4),
                        ]),
                    });
                }
            }
            categories.push(Category {
                department: (*department).to_owned(),
                name: (*category).to_owned(),
                products: members,
                appeal: *appeal,
            });
        }
        Self { products, categories }
    }

    /// A night's work in the shop: a few prices move, what ran low is ordered again.
    pub fn overnight(&mut self, rng: &mut Rng) {
        for product in &mut self.products {
            if rng.chance(0.012) {
                let percent = *rng.pick(&[85, 90, 95, 105, 110]);
                product.price = (product.price * percent / 100).max(product.cost + 50);
            }
            if product.stock < 12 && rng.chance(0.5) {
                product.stock += rng.range(60, 240);
            }
        }
    }

    /// Some category, by popularity.
    pub fn any_category(&self, rng: &mut Rng) -> usize {
        let weights: Vec<(usize, u32)> =
            self.categories.iter().enumerate().map(|(at, c)| (at, c.appeal)).collect();
        *rng.weighted(&weights)
    }

    /// Some product of a category, by appeal.
    pub fn any_product(&self, rng: &mut Rng, category: usize) -> usize {
        let weights: Vec<(usize, u32)> = self.categories[category]
            .products
            .iter()
            .map(|at| (*at, self.products[*at].appeal))
            .collect();
        *rng.weighted(&weights)
    }

    /// Products whose name or category holds the words searched for.
    pub fn search(&self, query: &str) -> Vec<usize> {
        let words: Vec<String> = query.split(' ').map(str::to_lowercase).collect();
        let fits = |product: &Product| {
            let text =
                format!("{} {} {}", product.name, product.category, product.brand).to_lowercase();
            words.iter().all(|word| text.contains(word.as_str()))
        };
        (0..self.products.len()).filter(|at| fits(&self.products[*at])).collect()
    }
}

/// What visitors type; several of these find nothing in this shop.
pub const SEARCHES: &[(&str, u32)] = &[
    ("mug", 30),
    ("coffee grinder", 26),
    ("desk lamp", 24),
    ("frying pan", 20),
    ("oak shelf", 12),
    ("throw", 14),
    ("notebook", 14),
    ("linen", 10),
    ("planter", 10),
    ("copper", 8),
    ("bowl", 12),
    ("mirror", 9),
    ("umber", 5),
    ("gift card", 11),
    ("toaster", 9),
    ("sofa bed", 7),
    ("kettle", 8),
    ("cofee grinder", 5),
    ("christmas lights", 6),
    ("air fryer", 5),
    ("yoga mat", 3),
];

/// A name as it stands in a URL.
pub fn slug(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    out.trim_matches('-').to_owned()
}

/// `1995` as `19.95`.
pub fn decimal(cents: Cents) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_catalog() {
        assert_eq!(Catalog::generate(1), Catalog::generate(1));
        assert_ne!(Catalog::generate(1), Catalog::generate(2));
    }

    #[test]
    fn products_are_sane_and_distinct() {
        let catalog = Catalog::generate(42);
        let ids: std::collections::HashSet<_> = catalog.products.iter().map(|p| &p.id).collect();
        assert_eq!(ids.len(), catalog.products.len());
        assert!(catalog.products.iter().all(|p| p.price > p.cost && p.cost > 0));
    }

    #[test]
    fn some_searches_find_something_and_some_nothing() {
        let catalog = Catalog::generate(42);
        assert!(!catalog.search("mug").is_empty());
        assert!(catalog.search("gift card").is_empty());
    }

    #[test]
    fn amounts_print_with_two_places() {
        assert_eq!(
            (decimal(1_995), decimal(5), decimal(-50)),
            ("19.95".into(), "0.05".into(), "-0.50".into())
        );
    }
}
