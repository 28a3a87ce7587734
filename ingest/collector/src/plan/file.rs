//! A plan's file.

use std::collections::BTreeMap;
use std::path::Path;

use clickmill_schemas::names::is_event_name;
use serde::Deserialize;

use super::value::{COLUMNS, Holds, ITEM_COLUMNS, Kind};
use super::{EventPlan, FORMAT, Place, Plan, PlanError, Rule, Unplanned};
use crate::protocol::segment::event_name;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    version: String,
    #[serde(default)]
    unplanned_events: Unplanned,
    #[serde(default = "allow")]
    unplanned_properties: Unplanned,
    #[serde(default)]
    events: BTreeMap<String, FileEvent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEvent {
    /// For people.
    #[serde(default)]
    #[allow(dead_code, reason = "a plan is read by people, too")]
    description: Option<String>,
    unplanned_properties: Option<Unplanned>,
    #[serde(default)]
    fields: BTreeMap<String, FileRule>,
    #[serde(default)]
    min_items: usize,
    #[serde(default)]
    items: BTreeMap<String, FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    #[allow(dead_code, reason = "a plan is read by people, too")]
    description: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    allowed: Vec<toml::Value>,
    min: Option<f64>,
    max: Option<f64>,
    max_length: Option<usize>,
}

const fn allow() -> Unplanned {
    Unplanned::Allow
}

impl Plan {
    /// Reads a plan's file.
    ///
    /// # Errors
    /// [`PlanError`]: it cannot be read, or is no plan.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|error| match error {
            PlanError::Syntax { source, .. } => {
                PlanError::Syntax { path: Some(path.to_owned()), source }
            }
            other => other,
        })
    }

    /// Reads a plan's text.
    ///
    /// # Errors
    /// As [`Plan::load`], but for reading.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let file: File = toml::from_str(text)
            .map_err(|source| PlanError::Syntax { path: None, source: Box::new(source) })?;
        if file.format != FORMAT {
            return Err(PlanError::Format { found: file.format });
        }
        let mut events = std::collections::HashMap::new();
        for (name, event) in file.events {
            let canonical = event_name(&name);
            if !is_event_name(&name) && canonical != "custom" {
                return Err(PlanError::Name { name, canonical });
            }
            let plan = event.plan(&name, file.unplanned_properties)?;
            events.insert(name, plan);
        }
        Ok(Self { version: file.version, unplanned_events: file.unplanned_events, events })
    }
}

impl FileEvent {
    fn plan(self, event: &str, unplanned: Unplanned) -> Result<EventPlan, PlanError> {
        let only = match self.unplanned_properties.unwrap_or(unplanned) {
            Unplanned::Allow => None,
            // A field in a column is named, too: a copy may stay in the properties.
            Unplanned::Flag => Some(
                self.fields
                    .keys()
                    .map(|name| name.split('.').next().unwrap_or(name).to_owned())
                    .chain(["products".to_owned()])
                    .collect(),
            ),
        };
        let mut fields = Vec::with_capacity(self.fields.len());
        for (name, rule) in self.fields {
            let column = COLUMNS.iter().find(|column| column.name == name);
            let place = match column {
                Some(column) => Place::Column(*column),
                None => Place::Property(name.split('.').map(str::to_owned).collect()),
            };
            let holds = column.map(|column| column.holds);
            fields.push(rule.rule(event, name, place, holds)?);
        }
        let mut items = Vec::with_capacity(self.items.len());
        for (name, rule) in self.items {
            let Some(column) = ITEM_COLUMNS.iter().find(|column| column.name == name) else {
                let known: Vec<_> = ITEM_COLUMNS.iter().map(|column| column.name).collect();
                let problem =
                    format!("products have no such column; they have {}", known.join(", "));
                let field = format!("items.{name}");
                return Err(PlanError::Rule { event: event.to_owned(), field, problem });
            };
            let name = format!("items.{name}");
            items.push(rule.rule(event, name, *column, Some(column.holds))?);
        }
        Ok(EventPlan { fields, only, min_items: self.min_items, items })
    }
}

impl FileRule {
    fn rule<P>(
        self,
        event: &str,
        name: String,
        place: P,
        holds: Option<Holds>,
    ) -> Result<Rule<P>, PlanError> {
        let numeric = matches!(self.kind, Kind::Number | Kind::Integer | Kind::Money);
        let problem = if name.split('.').any(str::is_empty) {
            Some("a name has no empty part".to_owned())
        } else if let Some(holds) = holds
            && !holds.fits(self.kind)
        {
            Some(format!("its column holds another type: write type = \"{}\"", holds.usual()))
        } else if !numeric && (self.min.is_some() || self.max.is_some()) {
            Some("min and max are for number, integer and money".to_owned())
        } else if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            Some("min is over max: no value can be right".to_owned())
        } else if self.max_length.is_some() && self.kind != Kind::String {
            Some("max_length is for type = \"string\"".to_owned())
        } else {
            None
        };
        let wrong =
            |problem| PlanError::Rule { event: event.to_owned(), field: name.clone(), problem };
        if let Some(problem) = problem {
            return Err(wrong(problem));
        }
        let mut allowed = Vec::with_capacity(self.allowed.len());
        for value in self.allowed {
            allowed.push(match (self.kind, value) {
                (Kind::String, toml::Value::String(text)) => text,
                (Kind::Integer, toml::Value::Integer(number)) => number.to_string(),
                _ => {
                    return Err(wrong(
                        "allowed lists strings for type = \"string\", integers for \
                         type = \"integer\", and is for these two types only"
                            .to_owned(),
                    ));
                }
            });
        }
        Ok(Rule {
            name,
            place,
            kind: self.kind,
            required: self.required,
            allowed,
            min: self.min,
            max: self.max,
            max_length: self.max_length,
        })
    }
}
