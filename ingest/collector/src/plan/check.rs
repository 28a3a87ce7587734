//! One event against the plan.

use std::borrow::Cow;
use std::fmt;

use clickmill_schemas::Event;

use super::value::Value;
use super::{EventPlan, Place, Plan, Rule, Unplanned};
use crate::protocol::json::Object;

/// How an event differs from the plan. Displays as its code, with the field
/// after a colon where there is one: `missing_property:total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation<'p> {
    /// `unplanned_event`: the plan has no such event.
    UnplannedEvent,
    /// `missing_property:FIELD`: a required field is absent, null or empty.
    Missing(&'p str),
    /// `wrong_type:FIELD`.
    WrongType(&'p str),
    /// `not_allowed:FIELD`: a value that is not among the allowed ones.
    NotAllowed(&'p str),
    /// `out_of_range:FIELD`: under the minimum, over the maximum, too long, or
    /// too few items.
    OutOfRange(&'p str),
    /// `unplanned_property`: a property that the plan does not name, where it
    /// wants to name all.
    UnplannedProperty,
}

impl<'p> Violation<'p> {
    /// Its code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnplannedEvent => "unplanned_event",
            Self::Missing(_) => "missing_property",
            Self::WrongType(_) => "wrong_type",
            Self::NotAllowed(_) => "not_allowed",
            Self::OutOfRange(_) => "out_of_range",
            Self::UnplannedProperty => "unplanned_property",
        }
    }

    /// The field in the plan; `items.NAME` for one of a product.
    #[must_use]
    pub const fn field(self) -> Option<&'p str> {
        match self {
            Self::Missing(field)
            | Self::WrongType(field)
            | Self::NotAllowed(field)
            | Self::OutOfRange(field) => Some(field),
            Self::UnplannedEvent | Self::UnplannedProperty => None,
        }
    }
}

impl fmt::Display for Violation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())?;
        self.field().map_or(Ok(()), |field| write!(f, ":{field}"))
    }
}

/// The value of `validation` for an event that is as planned.
pub(crate) const OK: &str = "ok";

impl Plan {
    /// The first violation: the event itself, then its fields and its items'
    /// in the order of their names, then what the plan does not name.
    ///
    /// # Errors
    /// The [`Violation`]; the event is to be kept all the same.
    pub fn check(&self, event: &Event<'_>) -> Result<(), Violation<'_>> {
        let Some(plan) = self.find(event) else {
            return match self.unplanned_events {
                Unplanned::Flag => Err(Violation::UnplannedEvent),
                Unplanned::Allow => Ok(()),
            };
        };
        let looks = plan.only.is_some()
            || plan.fields.iter().any(|rule| match &rule.place {
                Place::Property(_) => true,
                Place::Column(column) => (column.get)(event).is_none(),
            });
        // Parsed only for an event that needs it.
        let properties = match &event.properties {
            Some(raw) if looks => Object::parse(raw.get()).unwrap_or_default(),
            _ => Object::default(),
        };
        for rule in &plan.fields {
            match &rule.place {
                Place::Column(column) => match (column.get)(event) {
                    Some(value) => rule.check(Some(value))?,
                    None => rule.check(properties.get(column.name).and_then(Value::json))?,
                },
                Place::Property(path) => property(&properties, path, |value| rule.check(value))?,
            }
        }
        plan.check_items(event)?;
        if let Some(only) = &plan.only
            && properties.keys().any(|key| !only.iter().any(|name| name == key))
        {
            return Err(Violation::UnplannedProperty);
        }
        Ok(())
    }

    /// What the plan calls an event, or the vocabulary where the plan has none.
    pub(crate) fn name_of<'n>(&'n self, event: &'n Event<'_>) -> &'n str {
        match event.source_event_name.as_deref() {
            Some(own) if event.event_name == "custom" && self.events.contains_key(own) => own,
            _ => &event.event_name,
        }
    }

    /// The event's entry: a shop's own event by the name that the client gave it.
    fn find(&self, event: &Event<'_>) -> Option<&EventPlan> {
        match event.source_event_name.as_deref() {
            Some(own) if event.event_name == "custom" => {
                self.events.get(own).or_else(|| self.events.get("custom"))
            }
            _ => self.events.get(event.event_name.as_ref()),
        }
    }
}

impl EventPlan {
    fn check_items(&self, event: &Event<'_>) -> Result<(), Violation<'_>> {
        if event.items.len() < self.min_items {
            return Err(if event.items.is_empty() {
                Violation::Missing("items")
            } else {
                Violation::OutOfRange("items")
            });
        }
        for item in &event.items {
            for rule in &self.items {
                rule.check((rule.place.get)(item))?;
            }
        }
        Ok(())
    }
}

/// Hands on the value at `path`, level by level.
fn property<T>(
    object: &Object<'_>,
    path: &[String],
    then: impl FnOnce(Option<Value<'_>>) -> T,
) -> T {
    let Some((first, rest)) = path.split_first() else { return then(None) };
    let Some(value) = object.get(first) else { return then(None) };
    if rest.is_empty() {
        return then(Value::json(value));
    }
    match Object::of(value) {
        Some(inner) => property(&inner, rest, then),
        None => then(None),
    }
}

impl<P> Rule<P> {
    fn check(&self, value: Option<Value<'_>>) -> Result<(), Violation<'_>> {
        let name = &self.name;
        let Some(value) = value else {
            return if self.required { Err(Violation::Missing(name)) } else { Ok(()) };
        };
        if !value.is(self.kind) {
            return Err(Violation::WrongType(name));
        }
        let is = |text: &Cow<'_, str>| self.allowed.iter().any(|allowed| allowed == text);
        if !self.allowed.is_empty() && !value.text().is_some_and(|text| is(&text)) {
            return Err(Violation::NotAllowed(name));
        }
        let number = value.number();
        let below = self.min.zip(number).is_some_and(|(min, number)| number < min);
        let above = self.max.zip(number).is_some_and(|(max, number)| number > max);
        let long = self
            .max_length
            .is_some_and(|max| value.text().is_some_and(|text| text.chars().nth(max).is_some()));
        if below || above || long {
            return Err(Violation::OutOfRange(name));
        }
        Ok(())
    }
}
