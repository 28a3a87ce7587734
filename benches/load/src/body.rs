//! A batch of ten events as a browser sends it, about 8.8 KB, with ids of its own
//! in every request.

/// Events in a request.
pub const EVENTS: u64 = 10;
const ID_DIGITS: usize = 16;
const PAGES: [&str; 5] = ["/", "/c/shoes", "/p/trail-runner-3", "/cart", "/search?q=waterproof"];
const NAMES: [&str; 5] = [
    "Product Viewed",
    "Product List Viewed",
    "Product Added",
    "Products Searched",
    "Checkout Started",
];

/// The text of one connection's requests: only the ids change.
pub struct Body {
    text: Vec<u8>,
    ids: Vec<usize>,
}

impl Body {
    pub fn new(connection: usize) -> Self {
        let mut text =
            "{\"sentAt\":\"2026-11-23T10:00:00.500Z\",\"writeKey\":\"bench\",\"batch\":["
                .to_owned();
        let mut ids = Vec::new();
        for event in 0..EVENTS as usize {
            if event > 0 {
                text.push(',');
            }
            let seed = connection * 31 + event * 7;
            text.push_str("{\"messageId\":\"ajs-next-");
            ids.push(text.len());
            text.push_str(&"0".repeat(ID_DIGITS));
            text.push_str(&format!(
                "\",\"type\":\"track\",\"event\":\"{name}\",\"anonymousId\":\"5f0c{connection:04x}-7a1b-4c3d-9e8f-0123456789ab\",\
                 \"userId\":\"customer-{user}\",\"timestamp\":\"2026-11-23T10:00:00.{millis:03}Z\",\
                 \"properties\":{{\"product_id\":\"P{product:05}\",\"sku\":\"SKU-{product:05}-42\",\"name\":\"Trail Runner {product}\",\
                 \"brand\":\"Northwind\",\"category\":\"Shoes > Running > Trail\",\"variant\":\"42 / graphite\",\"price\":{price}.95,\
                 \"quantity\":1,\"currency\":\"EUR\",\"position\":{event},\"coupon\":\"AUTUMN10\",\"list_id\":\"search-results\"}},\
                 \"context\":{{\"page\":{{\"path\":\"{page}\",\"url\":\"https://shop.example{page}\",\"title\":\"Trail running shoes - Shop\",\
                 \"referrer\":\"https://www.example.org/?q=trail+running+shoes\",\"search\":\"\"}},\"campaign\":{{\"source\":\"newsletter\",\
                 \"medium\":\"email\",\"name\":\"autumn-{campaign}\"}},\"userAgent\":\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \
                 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\",\"locale\":\"de-DE\",\"timezone\":\"Europe/Berlin\",\
                 \"screen\":{{\"width\":1920,\"height\":1080}},\"library\":{{\"name\":\"analytics.js\",\"version\":\"npm:next-1.84.3\"}}}},\
                 \"integrations\":{{}}}}",
                name = NAMES[seed % NAMES.len()],
                page = PAGES[seed % PAGES.len()],
                user = seed * 13,
                millis = seed % 1000,
                product = seed * 17 % 90_000,
                price = 20 + seed % 180,
                campaign = seed % 9,
            ));
        }
        text.push_str("]}");
        Self { text: text.into_bytes(), ids }
    }

    /// The whole request, its ids still zero, and where they stand.
    pub fn request(&self, host: &str) -> (Vec<u8>, Vec<usize>) {
        let mut request = format!(
            "POST /v1/batch HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.text.len()
        )
        .into_bytes();
        let head = request.len();
        request.extend_from_slice(&self.text);
        (request, self.ids.iter().map(|at| at + head).collect())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// Writes the ids of a connection's request `number`.
pub fn number(request: &mut [u8], ids: &[usize], connection: usize, number: u64) {
    for (event, at) in ids.iter().enumerate() {
        let mut id = ((connection as u64) << 48) | (number * EVENTS + event as u64);
        for digit in (0..ID_DIGITS).rev() {
            request[at + digit] = b"0123456789abcdef"[(id & 15) as usize];
            id >>= 4;
        }
    }
}
