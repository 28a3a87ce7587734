//! Which hosts are of one site?

use super::*;

#[test]
fn hosts_are_of_one_site_by_their_registrable_domain() {
    for (a, b, expected) in [
        ("shop.example", "shop.example", true),
        ("shop.example", "www.shop.example", true),
        ("shop.brand.com", "checkout.brand.com", true),
        ("a.b.brand.co.uk", "c.brand.co.uk", true),
        ("Shop.Brand.Com.", "shop.brand.com", true),
        ("brand.com", "brand.com.", true),
        ("shop.müller.example", "www.müller.example", true),
        ("a.co.uk", "b.co.uk", false),
        ("a.co.uk", "co.uk", false),
        ("a.github.io", "b.github.io", false),
        ("a.github.io", "github.io", false),
        ("a.myshopify.com", "b.myshopify.com", false),
        ("brand.com", "brand.de", false),
        ("brand.com", "notbrand.com", false),
        ("brand.com", "brand.com.evil.example", false),
        ("localhost", "localhost", true),
        ("localhost", "shop.localhost", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "10.0.2.1", false),
        ("1.192.0.2.1", "192.0.2.1", false),
        ("[2001:db8::1]", "[2001:db8::1]", true),
        ("[::ffff:192.0.2.1]", "[::ffff:10.0.2.1]", false),
        ("a..com", "b..com", false),
        (".brand.com", "brand.com", false),
        ("brand.com..", "shop.brand.com", true),
        ("", "brand.com", false),
        (".", "com", false),
    ] {
        assert_eq!(same_site(a, b), expected, "{a} {b}");
        assert_eq!(same_site(b, a), expected, "{b} {a}");
    }
}

#[test]
fn an_entry_that_ends_in_a_dot_goes_on_with_a_public_suffix() {
    let list = &["name.", "below.name2.", "host.example"];
    for (host, expected) in [
        ("name", true),
        ("name.com", true),
        ("www.name.co.uk", true),
        ("below.name2.de", true),
        ("x.below.name2.de", true),
        ("name2.de", false),
        ("name.brand.com", false),
        ("name.github.io", false),
        ("name.com.brand.com", false),
        ("rename.com", false),
        ("host.example", true),
        ("x.host.example", true),
        ("xhost.example", false),
        ("", false),
        (".", false),
        ("..", false),
        ("com", false),
        ("ü.name.com", true),
        ("üname.com", false),
    ] {
        assert_eq!(Site::new(host).is_in(list), expected, "{host}");
    }
}

#[test]
fn every_entry_of_a_list_is_one_host_in_lower_case_and_is_there_once() {
    use super::super::site_lists::{ASSISTANTS, SHOPPING, SOCIAL, VIDEO};
    for list in [SEARCH, SOCIAL, SHOPPING, VIDEO, ASSISTANTS, PAYMENT, SIGN_IN] {
        for entry in list {
            assert!(configured(&format!("{entry}com")).is_ok(), "{entry}");
            assert_eq!(*entry, entry.to_lowercase());
        }
        let distinct: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(distinct.len(), list.len());
    }
}
