//! What shops call things.

use clickmill_schemas::names;

use super::super::config::{Field, ItemField};

/// What a column may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Time,
    EventName,
    EventId,
    Event(Field),
    Item(ItemField),
    /// An address of a person: better not imported.
    Private,
}

/// Names of columns, without signs and in lower case; the first of a role found in a file wins.
const COLUMN_WORDS: &[(Role, &[&str])] = &[
    (
        Role::Time,
        &[
            "eventtime",
            "eventtimestamp",
            "eventts",
            "timestamp",
            "ts",
            "occurredat",
            "createdat",
            "datetime",
            "time",
            "invoicedate",
            "eventdate",
            "date",
            "unixtime",
        ],
    ),
    (
        Role::EventName,
        &[
            "eventtype",
            "eventname",
            "event",
            "behavior",
            "behaviour",
            "behaviortype",
            "action",
            "actiontype",
            "activity",
            "type",
        ],
    ),
    (Role::EventId, &["eventid", "messageid", "insertid", "eventuuid"]),
    (
        Role::Event(Field::UserId),
        &["userid", "customerid", "memberid", "uid", "user", "customer", "accountid"],
    ),
    (
        Role::Event(Field::AnonymousId),
        &["anonymousid", "visitorid", "cookieid", "clientid", "fullvisitorid", "visitor"],
    ),
    (Role::Event(Field::DeviceId), &["deviceid", "idfa", "gaid"]),
    (
        Role::Event(Field::ClientSessionId),
        &["sessionid", "usersession", "session", "visitid", "sid"],
    ),
    (
        Role::Event(Field::OrderId),
        &["orderid", "transactionid", "ordernumber", "orderno", "invoiceno", "invoice"],
    ),
    (Role::Event(Field::CartId), &["cartid", "basketid"]),
    (Role::Event(Field::Currency), &["currency", "currencycode"]),
    (Role::Event(Field::Revenue), &["revenue"]),
    (Role::Event(Field::Total), &["total", "ordertotal", "totalamount"]),
    (Role::Event(Field::Tax), &["tax"]),
    (Role::Event(Field::Shipping), &["shipping", "shippingcost"]),
    (Role::Event(Field::Discount), &["discount"]),
    (Role::Event(Field::Coupon), &["coupon", "couponcode", "promocode"]),
    (Role::Event(Field::SearchQuery), &["searchquery", "query", "searchterm", "keyword", "search"]),
    (Role::Event(Field::PageUrl), &["pageurl", "url", "page", "pagelocation", "location"]),
    (Role::Event(Field::PageTitle), &["pagetitle"]),
    (
        Role::Event(Field::ReferrerUrl),
        &["referrer", "referer", "referrerurl", "refererurl", "pagereferrer"],
    ),
    (Role::Event(Field::UtmSource), &["utmsource"]),
    (Role::Event(Field::UtmMedium), &["utmmedium"]),
    (Role::Event(Field::UtmCampaign), &["utmcampaign"]),
    (Role::Event(Field::UtmTerm), &["utmterm"]),
    (Role::Event(Field::UtmContent), &["utmcontent"]),
    (Role::Event(Field::UserAgent), &["useragent"]),
    (Role::Event(Field::Country), &["country", "countrycode"]),
    (Role::Event(Field::Region), &["region", "state"]),
    (Role::Event(Field::City), &["city"]),
    (Role::Event(Field::Platform), &["platform"]),
    (Role::Event(Field::Language), &["language", "locale"]),
    (
        Role::Item(ItemField::ProductId),
        &["productid", "itemid", "stockcode", "articleid", "product", "item"],
    ),
    (Role::Item(ItemField::Sku), &["sku"]),
    (Role::Item(ItemField::Name), &["productname", "itemname", "description"]),
    (Role::Item(ItemField::Brand), &["brand"]),
    (
        Role::Item(ItemField::Category),
        &["categorycode", "category", "categoryname", "categorypath", "categoryid", "itemcategory"],
    ),
    (Role::Item(ItemField::Variant), &["variant"]),
    (Role::Item(ItemField::Price), &["price", "unitprice", "productprice", "itemprice"]),
    (Role::Item(ItemField::Quantity), &["quantity", "qty"]),
    (Role::Private, &["ip", "ipaddress", "remoteaddr", "email", "emailaddress", "phone"]),
];

/// What shops call events, likewise.
const EVENT_WORDS: &[(&str, &[&str])] = &[
    (
        "product_view",
        &[
            "view",
            "views",
            "pv",
            "viewitem",
            "detail",
            "detailview",
            "productdetail",
            "viewproduct",
            "productviewed",
        ],
    ),
    ("page_view", &["pageview", "pageviews", "page"]),
    (
        "product_list_view",
        &["viewitemlist", "listview", "viewcategory", "categoryview", "productlistviewed"],
    ),
    ("product_click", &["click", "clicks", "selectitem", "productclicked", "clickout"]),
    (
        "add_to_cart",
        &["cart", "addtocart", "addcart", "atc", "addtobasket", "basket", "productadded"],
    ),
    ("remove_from_cart", &["removefromcart", "removecart", "removefrombasket", "productremoved"]),
    ("cart_view", &["viewcart", "cartviewed"]),
    ("begin_checkout", &["checkout", "begincheckout", "startcheckout", "checkoutstarted"]),
    (
        "purchase",
        &[
            "purchase",
            "purchased",
            "buy",
            "bought",
            "order",
            "ordered",
            "transaction",
            "sale",
            "ordercompleted",
        ],
    ),
    ("refund", &["refund", "refunded", "return", "returned"]),
    (
        "add_to_wishlist",
        &[
            "fav",
            "favorite",
            "favourite",
            "favorites",
            "collect",
            "like",
            "wishlist",
            "addwishlist",
            "addtowishlist",
        ],
    ),
    ("search", &["search", "searched", "viewsearchresults"]),
    ("product_share", &["share"]),
    ("identify", &["login", "signin", "signup", "register"]),
];

/// The role that a column's name suggests, with how well (0 is best).
pub(super) fn role_of(name: &str) -> Option<(Role, usize)> {
    let word = plain(name);
    COLUMN_WORDS
        .iter()
        .find_map(|(role, words)| words.iter().position(|w| *w == word).map(|rank| (*role, rank)))
}

/// The canonical name that a shop's event name suggests.
pub(super) fn event_of(name: &str) -> Option<&'static str> {
    let word = plain(name);
    let known = names::EVENT_NAMES.iter().find(|canonical| plain(canonical) == word);
    known.copied().or_else(|| {
        EVENT_WORDS
            .iter()
            .find_map(|(event, words)| words.contains(&word.as_str()).then_some(*event))
    })
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}
