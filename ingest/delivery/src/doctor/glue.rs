//! The table of a format conversion, as the Glue Data Catalog has it.
//!
//! One request, GetTable of Glue's JSON 1.1 protocol, by what is here already: the SDK's chain
//! of credentials, and `object_store`'s signature and HTTP client. AWS' own SDK of Glue is not used: it has
//! 451,000 lines where that of Kinesis has 84,600, of which resolving names alone takes the compiler 16 CPU
//! seconds. That is a minute of everybody's build for this one request.

use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use clickmill_lake::aws::{SdkCredentials, endpoint};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpConnector as _, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::{ClientOptions, CredentialProvider as _};
use serde::Deserialize;

use super::{DescribeError, GlueColumn};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Which table it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlueTable {
    /// The account whose catalog it is in; `None`: the caller's own.
    pub catalog: Option<String>,
    /// Its region; `None`: the caller's.
    pub region: Option<String>,
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// A version of it; `None`: the newest.
    pub version: Option<String>,
}

impl fmt::Display for GlueTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// GetTable's answer, and what `aws glue get-table` prints; or GetTableVersion's.
#[derive(Deserialize)]
enum Answer {
    Table(Table),
    TableVersion(Version),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    table: Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Table {
    storage_descriptor: Storage,
    #[serde(default)]
    partition_keys: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Storage {
    columns: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Column {
    name: String,
    #[serde(default)]
    r#type: String,
}

/// A refusal of an AWS JSON service.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    code: String,
    #[serde(default, alias = "Message")]
    message: String,
}

/// The columns in what `aws glue get-table` prints; the API's answer is the same.
///
/// # Errors
/// Where it is something else.
pub fn glue_columns(text: &[u8]) -> Result<Vec<GlueColumn>, serde_json::Error> {
    let (Answer::Table(table) | Answer::TableVersion(Version { table })) =
        serde_json::from_slice(text)?;
    let columns = table.storage_descriptor.columns.into_iter().chain(table.partition_keys);
    Ok(columns.map(|column| GlueColumn { name: column.name, hive_type: column.r#type }).collect())
}

/// Asks Glue for the columns of a table.
///
/// # Errors
/// [`DescribeError`] where there are no credentials or no region, or Glue does not answer with a table.
pub async fn glue_table_columns(
    aws: &SdkConfig,
    table: &GlueTable,
) -> Result<Vec<GlueColumn>, DescribeError> {
    let subject = format!("glue {table}");
    ask(aws, table).await.map_err(|reason| DescribeError { subject, reason })
}

async fn ask(aws: &SdkConfig, table: &GlueTable) -> Result<Vec<GlueColumn>, String> {
    let region = table.region.as_deref().or(aws.region().map(|region| region.as_ref()));
    let region = region.ok_or("there is no region: set AWS_REGION")?;
    let credentials = SdkCredentials::new(aws).ok_or("there are no credentials")?;
    let credential = credentials.get_credential().await.map_err(|error| error.to_string())?;
    let address = endpoint(aws, "Glue").unwrap_or_else(|| {
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        format!("https://glue.{region}.amazonaws.com{suffix}")
    });
    let (target, mut body) = match &table.version {
        None => (
            "AWSGlue.GetTable",
            serde_json::json!({"DatabaseName": table.database, "Name": table.name}),
        ),
        Some(version) => (
            "AWSGlue.GetTableVersion",
            serde_json::json!({
                "DatabaseName": table.database, "TableName": table.name, "VersionId": version
            }),
        ),
    };
    if let Some(catalog) = &table.catalog {
        body["CatalogId"] = catalog.as_str().into();
    }
    let mut request = HttpRequest::new(HttpRequestBody::from(body.to_string()));
    *request.method_mut() = http::Method::POST;
    let uri = format!("{}/", address.trim_end_matches('/'));
    *request.uri_mut() = uri.parse().map_err(|error| format!("{uri} is no address: {error}"))?;
    let header = http::HeaderValue::from_static;
    request.headers_mut().insert("content-type", header("application/x-amz-json-1.1"));
    request.headers_mut().insert("x-amz-target", header(target));
    AwsAuthorizer::new(&credential, "glue", region).authorize(&mut request, None);
    let options = ClientOptions::new().with_timeout(TIMEOUT);
    let client = ReqwestConnector::default()
        .connect(&options.with_allow_http(address.starts_with("http://")))
        .map_err(|error| error.to_string())?;
    let answer = client.execute(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.into_body().bytes().await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        let refusal = serde_json::from_slice::<Refusal>(&text).ok();
        return Err(refusal.map_or_else(
            || format!("Glue answered {status}"),
            |Refusal { code, message }| {
                format!("Glue answered {}: {message}", code.rsplit('#').next().unwrap_or_default())
            },
        ));
    }
    glue_columns(&text).map_err(|error| format!("the answer holds no table: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_partition_keys_are_read_from_what_the_cli_prints() {
        let text = br#"{"Table": {"Name": "clicks", "StorageDescriptor": {"Columns": [
            {"Name": "event_id", "Type": "string", "Comment": "c"}, {"Name": "odd"}]},
            "PartitionKeys": [{"Name": "dt", "Type": "date"}]}}"#;
        let column = |name: &str, hive_type: &str| GlueColumn {
            name: name.to_owned(),
            hive_type: hive_type.to_owned(),
        };
        let expected = vec![column("event_id", "string"), column("odd", ""), column("dt", "date")];
        assert_eq!(glue_columns(text).expect("reads"), expected);
        assert!(glue_columns(b"{\"Database\": {}}").is_err());
    }
}
