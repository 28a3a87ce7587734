//! Which visitors and customers are one person, and since when.
//!
//! Links between a visitor and a customer (a login, an order, a mail address)
//! are taken in the order of their time. Whoever a chain of links joins is one
//! person: a connected component. A visitor is a customer's from the moment on
//! in which both come into one component, so the answer as of any time is a
//! range check, and it does not depend on when it is asked.
//!
//! # Limits
//! A shared device must not merge the world. Three caps keep a person small:
//! - A visitor with more than [`MAX_CUSTOMERS_OF_A_VISITOR`] customers is a shared
//!   device, a customer with more than [`MAX_VISITORS_OF_A_CUSTOMER`] visitors a shared
//!   account ("guest"). From that moment on they join nobody, and who was one
//!   person only through them no longer is.
//! - A link that would make a person of more than [`MAX_VISITORS_OF_A_PERSON`]
//!   visitors or [`MAX_CUSTOMERS_OF_A_PERSON`] customers is not followed.
//!
//! Each of them is in the answer. Memory: the links, about 100 bytes each.

use std::collections::{BTreeMap, BTreeSet};

/// A household has as many on one device; an internet café has more.
pub const MAX_CUSTOMERS_OF_A_VISITOR: usize = 3;
/// Browsers that forget their cookies every week make 52 a year and device.
pub const MAX_VISITORS_OF_A_CUSTOMER: usize = 500;
/// So many visitors is a person at most ...
pub const MAX_VISITORS_OF_A_PERSON: usize = 1_000;
/// ... and so many customers.
pub const MAX_CUSTOMERS_OF_A_PERSON: usize = 10;

/// A visitor or a customer, by its number among its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Of the visitors.
    Visitor(u32),
    /// Of the customers.
    Customer(u32),
}

/// The first sign of a kind that a visitor is a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// When, microseconds.
    pub at: i64,
    /// The visitor.
    pub visitor: u32,
    /// The customer.
    pub customer: u32,
    /// The kind of sign: the least counts where several came at once.
    pub method: u8,
}

/// That a visitor is a customer, over a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The visitor.
    pub visitor: u32,
    /// The customer.
    pub customer: u32,
    /// Since when, microseconds.
    pub from: i64,
    /// Until when; `None`: still.
    pub to: Option<i64>,
    /// The kind of the first link between these two; `None` where only others join them.
    pub method: Option<u8>,
}

/// What the caps kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// A device or an account of too many, since when.
    Shared(Node, i64),
    /// A link that would have made too large a person.
    Capped(Link),
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stitched {
    /// Sorted.
    pub identities: Vec<Identity>,
    /// In the order of time.
    pub refused: Vec<Refused>,
}

#[derive(Default)]
struct Graph {
    /// Followed links, both ways, with their methods.
    neighbours: BTreeMap<Node, BTreeMap<Node, u8>>,
    component: BTreeMap<Node, usize>,
    members: Vec<BTreeSet<Node>>,
    shared: BTreeSet<Node>,
    open: BTreeMap<(u32, u32), (i64, Option<u8>)>,
    done: Stitched,
}

/// Stitches links, in any order.
#[must_use]
pub fn stitch(links: &[Link]) -> Stitched {
    let mut links = links.to_vec();
    links.sort_unstable();
    let mut graph = Graph::default();
    for link in links {
        graph.take(link);
    }
    let Graph { open, mut done, .. } = graph;
    done.identities.extend(open.into_iter().map(|((visitor, customer), (from, method))| {
        Identity { visitor, customer, from, to: None, method }
    }));
    done.identities.sort_unstable();
    // Parted and joined again within one instant is never parted.
    done.identities.dedup_by(|next, last| {
        let same = (next.visitor, next.customer) == (last.visitor, last.customer)
            && last.to == Some(next.from);
        if same {
            last.to = next.to;
            last.method = last.method.or(next.method);
        }
        same
    });
    done
}

impl Graph {
    fn take(&mut self, link: Link) {
        let (visitor, customer) = (Node::Visitor(link.visitor), Node::Customer(link.customer));
        if self.shared.contains(&visitor) || self.shared.contains(&customer) {
            return;
        }
        if self.neighbours.get(&visitor).is_some_and(|known| known.contains_key(&customer)) {
            return;
        }
        let degree = |node: &Node| self.neighbours.get(node).map_or(0, BTreeMap::len);
        let too_many = [
            (visitor, degree(&visitor) >= MAX_CUSTOMERS_OF_A_VISITOR),
            (customer, degree(&customer) >= MAX_VISITORS_OF_A_CUSTOMER),
        ];
        let mut refused = false;
        for (node, _) in too_many.iter().filter(|(_, too_many)| *too_many) {
            self.share(*node, link.at);
            refused = true;
        }
        if refused {
            return;
        }
        let (a, b) = (self.component_of(visitor), self.component_of(customer));
        if a != b {
            let count = |is: fn(&Node) -> bool| {
                self.members[a].iter().chain(&self.members[b]).filter(|node| is(node)).count()
            };
            if count(|node| matches!(node, Node::Visitor(_))) > MAX_VISITORS_OF_A_PERSON
                || count(|node| matches!(node, Node::Customer(_))) > MAX_CUSTOMERS_OF_A_PERSON
            {
                self.done.refused.push(Refused::Capped(link));
                return;
            }
        }
        self.neighbours.entry(visitor).or_default().insert(customer, link.method);
        self.neighbours.entry(customer).or_default().insert(visitor, link.method);
        if a != b {
            self.merge(a, b, link.at);
        } else if let Some((_, method)) = self.open.get_mut(&(link.visitor, link.customer)) {
            method.get_or_insert(link.method);
        }
    }

    fn component_of(&mut self, node: Node) -> usize {
        let next = self.members.len();
        let number = *self.component.entry(node).or_insert(next);
        if number == next {
            self.members.push(BTreeSet::from([node]));
        }
        number
    }

    /// Makes one component of two, and opens the pairs that it joins.
    fn merge(&mut self, a: usize, b: usize, at: i64) {
        let (from, into) =
            if self.members[a].len() < self.members[b].len() { (a, b) } else { (b, a) };
        let moved = std::mem::take(&mut self.members[from]);
        for node in &moved {
            self.component.insert(*node, into);
            for other in &self.members[into] {
                let pair = match (*node, *other) {
                    (Node::Visitor(visitor), Node::Customer(customer))
                    | (Node::Customer(customer), Node::Visitor(visitor)) => (visitor, customer),
                    _ => continue,
                };
                let method = self
                    .neighbours
                    .get(&Node::Visitor(pair.0))
                    .and_then(|known| known.get(&Node::Customer(pair.1)).copied());
                self.open.insert(pair, (at, method));
            }
        }
        self.members[into].extend(moved);
    }

    /// Takes a shared node out of its component, which may fall apart.
    fn share(&mut self, node: Node, at: i64) {
        self.shared.insert(node);
        self.done.refused.push(Refused::Shared(node, at));
        for neighbour in self.neighbours.remove(&node).unwrap_or_default().into_keys() {
            if let Some(known) = self.neighbours.get_mut(&neighbour) {
                known.remove(&node);
            }
        }
        let Some(number) = self.component.remove(&node) else { return };
        let mut left = std::mem::take(&mut self.members[number]);
        left.remove(&node);
        let before = left.clone();
        while let Some(start) = left.pop_first() {
            let mut part = BTreeSet::from([start]);
            let mut to_visit = vec![start];
            while let Some(next) = to_visit.pop() {
                let known = self.neighbours.get(&next).into_iter().flat_map(BTreeMap::keys);
                for neighbour in known {
                    if left.remove(neighbour) {
                        part.insert(*neighbour);
                        to_visit.push(*neighbour);
                    }
                }
            }
            for member in &part {
                self.component.insert(*member, self.members.len());
            }
            self.members.push(part);
        }
        self.close(node, &before, at);
    }

    /// Ends the pairs of a component that are no longer in one.
    fn close(&mut self, node: Node, before: &BTreeSet<Node>, at: i64) {
        let of = |is: fn(&Node) -> Option<u32>| -> Vec<u32> {
            before.iter().chain([&node]).filter_map(is).collect()
        };
        let visitors = of(|node| match node {
            Node::Visitor(number) => Some(*number),
            Node::Customer(_) => None,
        });
        let customers = of(|node| match node {
            Node::Customer(number) => Some(*number),
            Node::Visitor(_) => None,
        });
        for visitor in visitors {
            for customer in &customers {
                let now = self.component.get(&Node::Visitor(visitor));
                if now.is_some() && now == self.component.get(&Node::Customer(*customer)) {
                    continue;
                }
                if let Some((from, method)) = self.open.remove(&(visitor, *customer))
                    && from < at
                {
                    self.done.identities.push(Identity {
                        visitor,
                        customer: *customer,
                        from,
                        to: Some(at),
                        method,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(at: i64, visitor: u32, customer: u32) -> Link {
        Link { at, visitor, customer, method: 0 }
    }

    fn pairs(stitched: &Stitched) -> Vec<(u32, u32, i64, Option<i64>)> {
        stitched.identities.iter().map(|i| (i.visitor, i.customer, i.from, i.to)).collect()
    }

    #[test]
    fn a_chain_of_links_joins_from_the_moment_of_its_last_one() {
        let links = [link(1, 0, 0), link(2, 1, 1), link(5, 1, 0)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let stitched = stitch(&order.map(|at| links[at]));
            assert_eq!(
                pairs(&stitched),
                [(0, 0, 1, None), (0, 1, 5, None), (1, 0, 5, None), (1, 1, 2, None)]
            );
            let joined = stitched.identities.iter().find(|i| (i.visitor, i.customer) == (0, 1));
            assert_eq!(joined.and_then(|i| i.method), None);
        }
    }

    #[test]
    fn a_device_of_too_many_customers_joins_them_no_longer() {
        // Customers 0 and 1 share another device, too: that one still joins them.
        let links = [
            link(1, 9, 0),
            link(2, 9, 1),
            link(3, 9, 2),
            link(4, 5, 0),
            link(4, 5, 1),
            link(7, 9, 3),
            link(8, 9, 0),
        ];
        let stitched = stitch(&links);
        assert_eq!(
            pairs(&stitched),
            [
                (5, 0, 4, None),
                (5, 1, 4, None),
                (5, 2, 4, Some(7)),
                (9, 0, 1, Some(7)),
                (9, 1, 2, Some(7)),
                (9, 2, 3, Some(7)),
            ]
        );
        assert_eq!(stitched.refused, [Refused::Shared(Node::Visitor(9), 7)]);
    }

    #[test]
    fn an_account_of_too_many_visitors_is_nobody() {
        let most = MAX_VISITORS_OF_A_CUSTOMER as u32;
        let within: Vec<Link> = (0..most).map(|n| link(i64::from(n), n, 0)).collect();
        assert_eq!(stitch(&within).refused, []);
        let mut beyond = within;
        beyond.push(link(i64::from(most), most, 0));
        let stitched = stitch(&beyond);
        assert_eq!(stitched.refused, [Refused::Shared(Node::Customer(0), i64::from(most))]);
        assert!(stitched.identities.iter().all(|i| i.to == Some(i64::from(most))));
    }

    #[test]
    fn a_person_of_too_many_customers_grows_no_further() {
        // A chain: visitor n joins customers n and n + 1.
        let most = MAX_CUSTOMERS_OF_A_PERSON as u32;
        let chain: Vec<Link> = (0..most)
            .flat_map(|n| [link(i64::from(2 * n), n, n), link(i64::from(2 * n + 1), n, n + 1)])
            .collect();
        let stitched = stitch(&chain);
        let last = chain[chain.len() - 1];
        assert_eq!(stitched.refused, [Refused::Capped(last)]);
        assert!(!stitched.identities.iter().any(|i| i.customer == most));
        let of_first = stitched.identities.iter().filter(|i| i.visitor == 0).count();
        assert_eq!(of_first, MAX_CUSTOMERS_OF_A_PERSON);
    }
}
