//! Are the channels those that Google's description of the default channel group says, and a
//! shop's own rules before them?

use super::*;

fn marks(source: &'static str, medium: &'static str, campaign: &'static str) -> Traffic<'static> {
    let some = |text: &'static str| (!text.is_empty()).then_some(text);
    Traffic {
        source: some(source),
        medium: some(medium),
        campaign: some(campaign),
        page_host: Some("shop.example"),
        ..Traffic::default()
    }
}

#[test]
fn every_channel_of_ga4_has_its_traffic() {
    let rules = ChannelRules::default();
    for (source, medium, campaign, expected) in [
        ("(direct)", "(none)", "", "direct"),
        ("(direct)", "(not set)", "", "direct"),
        ("google", "cpc", "DE cross-network PMax", "cross_network"),
        ("google", "cpc", "Shopping DE", "paid_shopping"),
        ("google", "cpc", "my eshop", "paid_shopping"),
        // "shop" inside a word that does not end in e before it.
        ("google", "cpc", "workshop", "paid_search"),
        ("amazon.de", "cpc", "", "paid_shopping"),
        ("google", "cpc", "", "paid_search"),
        ("Bing", "PPC", "", "paid_search"),
        ("www.google.co.uk", "retargeting", "", "paid_search"),
        ("facebook", "paid", "", "paid_social"),
        ("m.facebook.com", "cpc", "", "paid_social"),
        ("t.co", "paid-reach", "", "paid_social"),
        ("youtube", "cpv-cpm", "", "paid_video"),
        ("adnetwork", "cpm", "", "display"),
        ("adnetwork", "Interstitial", "", "display"),
        // GA4 puts a search engine's cpm before display.
        ("google", "cpm", "", "paid_search"),
        ("adnetwork", "cpa", "", "paid_other"),
        ("partner", "paid_social", "", "paid_social"),
        ("etsy.com", "referral", "", "organic_shopping"),
        ("blog", "referral", "spring shop", "organic_shopping"),
        ("instagram", "story", "", "social"),
        ("somewhere", "Social Media", "", "social"),
        ("vimeo.com", "", "", "organic_video"),
        ("somewhere", "video-teaser", "", "organic_video"),
        ("duckduckgo.com", "referral", "", "organic_search"),
        ("somewhere", "organic", "", "organic_search"),
        ("blog.example", "referral", "", "referral"),
        ("partner-app", "app", "", "referral"),
        ("partner", "link", "", "referral"),
        ("newsletter", "e-mail", "", "email"),
        ("e_mail", "spring", "", "email"),
        ("newsletter", "", "", "email"),
        ("awin", "affiliate", "", "affiliate"),
        ("awin", "affiliates", "", "affiliate"),
        ("spotify", "audio", "", "audio"),
        ("twilio", "sms", "", "sms"),
        ("sms", "text", "", "sms"),
        ("app", "webpush", "", "push"),
        ("app", "mobile-alert", "", "push"),
        ("firebase", "x", "", "push"),
        ("partner", "", "", "unassigned"),
        ("", "", "spring", "unassigned"),
    ] {
        let channel = rules.channel(&marks(source, medium, campaign));
        assert_eq!(channel, expected, "{source} / {medium} / {campaign}");
    }
    assert_eq!(rules.version(), 2);
}

#[test]
fn without_a_campaign_the_click_and_then_the_referrer_decides() {
    let rules = ChannelRules::default();
    for (click, referrer, expected) in [
        (Some("gclid"), Some("www.google.com"), "paid_search"),
        (Some("msclkid"), None, "paid_search"),
        (Some("dclid"), None, "display"),
        (Some("li_fat_id"), None, "paid_social"),
        (Some("fbclid"), Some("shop.example"), "social"),
        (None, Some("www.google.co.uk"), "organic_search"),
        (None, Some("l.facebook.com"), "social"),
        (None, Some("t.co"), "social"),
        (None, Some("nott.co"), "referral"),
        (None, Some("m.youtube.com"), "organic_video"),
        (None, Some("www.ebay.de"), "organic_shopping"),
        (None, Some("notgoogle.example"), "referral"),
        (None, Some("www.shop.example"), "internal"),
        (None, Some("othershop.example"), "referral"),
        (None, None, "direct"),
    ] {
        let traffic = Traffic {
            click_id_type: click,
            page_host: Some("shop.example"),
            referrer_host: referrer,
            ..Traffic::default()
        };
        assert_eq!(rules.channel(&traffic), expected, "{click:?} {referrer:?}");
    }
    // A campaign's own medium stands above what the click says.
    let both = Traffic { click_id_type: Some("gclid"), ..marks("letter", "email", "") };
    assert_eq!(rules.channel(&both), "email");
}

fn rules(text: &str) -> Result<ChannelRules, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn a_shops_own_rules_come_first_and_the_first_that_fits_wins() {
    let own = rules(
        r#"
        version = 1001
        [[rules]]
        channel = "influencer"
        source = ["insta-*", "*creator*"]
        medium = "Social"
        [[rules]]
        channel = "brand_search"
        click_id = "gclid"
        campaign = "brand*"
        [[rules]]
        channel = "partner"
        referrer = ["partner.example", "*.partner.example"]
        source = "(none)"
        [[rules]]
        channel = "never"
        source = "insta-*"
        "#,
    )
    .unwrap();
    assert_eq!(own.version(), 1001);
    let partner = Traffic { referrer_host: Some("Blog.Partner.Example"), ..Traffic::default() };
    for (traffic, expected) in [
        (marks("Insta-Jane", "social", ""), "influencer"),
        (marks("the creators", "social", ""), "influencer"),
        (marks("insta-jane", "story", ""), "never"),
        (Traffic { click_id_type: Some("gclid"), ..marks("", "", "Brand DE") }, "brand_search"),
        (marks("google", "cpc", "Brand DE"), "paid_search"),
        (partner, "partner"),
        (Traffic { source: Some("x"), medium: Some("email"), ..partner }, "email"),
        (marks("", "", ""), "direct"),
    ] {
        assert_eq!(own.channel(&traffic), expected, "{traffic:?}");
    }
}

#[test]
fn a_star_stands_for_anything() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "a", true),
        ("*a", "ba", true),
        ("a*a", "a", false),
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "acb", false),
        ("*", "x", true),
        ("**x", "x", true),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn rules_that_could_not_be_told_apart_later_are_refused() {
    for (text, said) in [
        ("[[rules]]\nchannel = \"a\"\nsource = \"b\"", "no `version`"),
        ("version = 2\n[[rules]]\nchannel = \"a\"\nsource = \"b\"", "kept for default rules"),
        ("version = 1000\n[[rules]]\nsource = \"b\"", "lacks its `channel`"),
        ("version = 1000\n[[rules]]\nchannel = \"a\"", "no condition"),
        ("version = 1000\n[[rules]]\nchannel = \"a\"\nsuorce = \"b\"", "suorce"),
    ] {
        let error = rules(text).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn traffic_seen_before_has_the_channel_that_it_would_have_alone() {
    let text = "version = 1000\n[[rules]]\nchannel = \"partner\"\nreferrer = \"*.partner.example\"\n\
                [[rules]]\nchannel = \"none\"\nsource = \"(none)\"\nmedium = \"x\"\n";
    for rules in ["", text] {
        let shared: ChannelRules = toml::from_str(rules).unwrap();
        let texts =
            [None, Some(""), Some("x"), Some("google"), Some("1:x"), Some("a.partner.example")];
        let of = |at: usize| texts[at % texts.len()];
        // Every mixture of texts in five places, twice: the second time each is known.
        let many = texts.len().pow(5);
        for number in (0..many).chain(0..many) {
            let part = |place: u32| of(number / texts.len().pow(place));
            let traffic = Traffic {
                source: part(0),
                medium: part(1),
                referrer_host: part(2),
                page_host: part(3),
                click_id_type: part(4),
                campaign: of(number / 7),
            };
            let alone: ChannelRules = shared.clone();
            assert_eq!(shared.channel(&traffic), alone.channel(&traffic), "{traffic:?}");
        }
    }
}
