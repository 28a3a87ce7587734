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
        ("somewhere", "AI-Assistant", "", "ai_assistant"),
        ("claude.ai", "ai-assistant", "spring shop", "ai_assistant"),
        // What ChatGPT writes into its links.
        ("chatgpt.com", "", "", "ai_assistant"),
        ("ChatGPT.com.", "", "", "ai_assistant"),
        ("gemini.google.com", "", "", "ai_assistant"),
        ("chatgpt.com", "cpc", "", "paid_other"),
        ("chatgpt.com", "email", "", "email"),
        ("chatgpt.com.evil.example", "", "", "unassigned"),
        ("yahoo", "", "", "organic_search"),
        ("google.de", "cpc", "", "paid_search"),
        ("maps.google.com", "cpc", "", "paid_other"),
        // A marked visit is one, whoever sent it.
        ("paypal", "email", "", "email"),
        ("paypal.com", "referral", "", "referral"),
    ] {
        let channel = rules.channel(&marks(source, medium, campaign));
        assert_eq!(channel, expected, "{source} / {medium} / {campaign}");
    }
    assert_eq!(rules.version(), 3);
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

/// The channel of a page view that a page of `referrer` led to.
fn referred(rules: &ChannelRules, page: &str, referrer: &str) -> String {
    let page_host = (!page.is_empty()).then_some(page);
    let traffic = Traffic { page_host, referrer_host: Some(referrer), ..Traffic::default() };
    rules.channel(&traffic).to_owned()
}

#[test]
fn a_search_engine_s_other_pages_are_no_search() {
    let rules = ChannelRules::default();
    for (expected, referrers) in [
        (
            "organic_search",
            "google.com www.google.de WWW.Google.co.uk. images.google.fr news.google.com \
             lens.google.com m.naver.com search.naver.com m.search.naver.com yahoo.com \
             search.yahoo.com de.search.yahoo.com r.search.yahoo.com search.yahoo.co.jp \
             bing.com www.bing.com cn.bing.com yandex.ru yandex.com.tr ya.ru go.mail.ru \
             html.duckduckgo.com lite.qwant.com suche.aol.de websearch.rakuten.co.jp \
             search.brave.com com.google.android.googlequicksearchbox",
        ),
        (
            "referral",
            "docs.google.com mail.google.com play.google.com store.google.com maps.google.de \
             finance.yahoo.com mail.yahoo.com uk.yahoo.com mail.yandex.ru e.mail.ru mail.ru \
             tv.naver.com google.evil.example google.github.io google.com.evil.example \
             notgoogle.com www.google .google.com google..com research.google \
             search.google.com.evil.example com.google.android.gm 8.8.8.8 [2001:db8::1] \
             localhost",
        ),
        (
            "social",
            "groups.google.com sites.google.com blog.naver.com m.blog.naver.com cafe.naver.com \
             answers.yahoo.com lm.facebook.com old.reddit.com someone.blogspot.com \
             someone.tumblr.com out.reddit.com com.linkedin.android",
        ),
        (
            "organic_shopping",
            "shopping.google.com shopping.yahoo.co.jp cr.shopping.naver.com www.amazon.co.uk",
        ),
        ("organic_video", "music.youtube.com com.google.android.youtube player.vimeo.com"),
        ("referral", "facebook.evil.example amazon.github.io youtube.com.evil.example"),
        (
            "ai_assistant",
            "chatgpt.com ChatGPT.com. chat.openai.com gemini.google.com bard.google.com \
             claude.ai www.perplexity.ai copilot.microsoft.com grok.com chat.deepseek.com \
             www.meta.ai chat.mistral.ai poe.com",
        ),
        ("referral", "claude.ai.evil.example notclaude.ai openai.com microsoft.com mistral.ai ai"),
    ] {
        for referrer in referrers.split_whitespace() {
            assert_eq!(referred(&rules, "shop.example", referrer), expected, "{referrer}");
        }
    }
}

#[test]
fn a_visit_goes_on_from_where_one_pays_or_signs_in() {
    let rules = ChannelRules::default();
    let passed = "paypal.com www.paypal.com www.sandbox.paypal.com WWW.PayPal.com. checkout.stripe.com \
         hooks.stripe.com pay.klarna.com checkoutshopper-live.adyen.com www.mollie.com \
         portal.afterpay.com pay.amazon.co.uk pay.google.com shop.app checkout.shopify.com \
         hpp.worldpay.com pay.checkout.com squareup.com api.razorpay.com secure.payu.com \
         secure.przelewy24.pl centinelapi.cardinalcommerce.com secure5.arcot.com \
         3ds.bank.example acs.3dsecure.bank.example accounts.google.com accounts.google.de \
         appleid.apple.com login.live.com login.microsoftonline.com brand.eu.auth0.com";
    for page in ["shop.example", ""] {
        for referrer in passed.split_whitespace() {
            assert_eq!(referred(&rules, page, referrer), "internal", "{referrer}");
        }
    }
    for (referrer, expected) in [
        ("paypal.com.evil.example", "referral"),
        ("notpaypal.com", "referral"),
        ("paypal.github.io", "referral"),
        ("www.klarna.com", "referral"),
        ("www.amazon.com", "organic_shopping"),
        ("www.facebook.com", "social"),
        ("stripe.com", "referral"),
        ("my3ds.example", "referral"),
        ("", "direct"),
        (" . ", "direct"),
    ] {
        assert_eq!(referred(&rules, "shop.example", referrer), expected, "{referrer}");
    }
    // What is marked is a visit: an advertisement may open within a payment.
    let paypal = Some("www.paypal.com");
    let click =
        Traffic { click_id_type: Some("gclid"), referrer_host: paypal, ..marks("", "", "") };
    assert_eq!(rules.channel(&click), "paid_search");
    let letter = Traffic { referrer_host: paypal, ..marks("letter", "email", "") };
    assert_eq!(rules.channel(&letter), "email");
}

#[test]
fn a_shop_s_other_hosts_and_those_that_it_ignores_are_internal() {
    let shop = rules(
        r#"
        version = 1002
        ignored_referrers = ["Pay.Example.", "bücher.example"]
        own_domains = ["brand.com", "brand.co.uk", "brand.myshopify.com"]
        [[rules]]
        channel = "partner"
        referrer = ["*.partner.pay.example", "www.paypal.com"]
        "#,
    )
    .unwrap();
    assert_eq!(shop.version(), 1002);
    for (page, referrer, expected) in [
        ("shop.example", "pay.example", "internal"),
        ("shop.example", "eu.PAY.example", "internal"),
        ("shop.example", "xn--bcher-kva.example", "internal"),
        ("shop.example", "notpay.example", "referral"),
        ("shop.example", "example", "referral"),
        ("www.brand.co.uk", "shop.brand.com", "internal"),
        ("brand.com", "www.brand.co.uk", "internal"),
        ("brand.com", "brand.myshopify.com", "internal"),
        ("brand.com", "other.myshopify.com", "referral"),
        ("", "brand.com", "internal"),
        ("brand.com", "mybrand.com", "referral"),
        // The shop's rules are asked first, and the default list is still there.
        ("shop.example", "x.partner.pay.example", "partner"),
        ("shop.example", "www.paypal.com", "partner"),
        ("shop.example", "paypal.com", "internal"),
    ] {
        assert_eq!(referred(&shop, page, referrer), expected, "{page} {referrer}");
    }
    assert_ne!(shop, ChannelRules::default());
}

#[test]
fn without_a_campaign_a_page_of_the_same_site_is_internal() {
    let rules = ChannelRules::default();
    for (page, referrer, expected) in [
        ("shop.brand.com", "checkout.brand.com", "internal"),
        ("Shop.Brand.com.", "checkout.brand.COM", "internal"),
        ("a.co.uk", "b.co.uk", "referral"),
        ("a.github.io", "b.github.io", "referral"),
        ("192.0.2.1", "192.0.2.1", "internal"),
        ("192.0.2.1", "198.51.2.1", "referral"),
    ] {
        assert_eq!(referred(&rules, page, referrer), expected, "{page} {referrer}");
    }
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
        ("ignored_referrers = [\"pay.example\"]", "no `version`"),
        ("own_domains = [\"brand.com\"]", "no `version`"),
        ("version = 1000\nown_domain = [\"brand.com\"]", "own_domain"),
        ("version = 1000\nown_domains = [\"\"]", "own_domains of [channels]: \"\" is no host"),
        ("version = 1000\nown_domains = [\"co.uk\"]", "a public suffix"),
        ("version = 1000\nown_domains = [\"localhost\"]", "a public suffix"),
        ("version = 1000\nignored_referrers = [\"https://pay.example/\"]", "is no host"),
        ("version = 1000\nignored_referrers = [\"*.pay.example\"]", "without *"),
        ("version = 1000\nignored_referrers = [\"pay..example\"]", "is no host"),
    ] {
        let error = rules(text).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn traffic_seen_before_has_the_channel_that_it_would_have_alone() {
    let text = "version = 1000\n[[rules]]\nchannel = \"partner\"\nreferrer = \"*.partner.example\"\n\
                [[rules]]\nchannel = \"none\"\nsource = \"(none)\"\nmedium = \"x\"\n";
    let hosts = "version = 1001\nown_domains = [\"partner.example\"]";
    for rules in ["", text, hosts] {
        let shared: ChannelRules = toml::from_str(rules).unwrap();
        let texts =
            [None, Some(""), Some("x"), Some("1:x"), Some("a.partner.example"), Some("paypal.com")];
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
