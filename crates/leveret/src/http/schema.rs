//! What the OpenAPI document says of ids, which types alone do not tell.

use leveret_core::ids::ID_BYTES_MAX;
use utoipa::{
    IntoParams,
    openapi::schema::{Object, ObjectBuilder, SchemaType, Type},
};

/// No control characters.
const PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// An id. Its bound is one on bytes, which a schema cannot tell.
pub(super) fn id() -> Object {
    id_of(Type::String.into())
}

/// An id or null.
pub(super) fn optional_id() -> Object {
    id_of(SchemaType::from_iter([Type::String, Type::Null]))
}

fn id_of(schema_type: SchemaType) -> Object {
    ObjectBuilder::new()
        .schema_type(schema_type)
        .min_length(Some(1))
        .max_length(Some(ID_BYTES_MAX))
        .pattern(Some(PATTERN))
        .build()
}

/// How a path names a run.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here, read as an `Id`")]
pub(super) struct RunInPath {
    /// The run.
    #[param(schema_with = id)]
    run_id: String,
}

/// How a path names a node of a run.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here, read as ids")]
pub(super) struct NodeInPath {
    /// The run.
    #[param(schema_with = id)]
    run_id: String,
    /// The node.
    #[param(schema_with = id)]
    node_id: String,
}

/// How a path names a schedule.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here, read as an `Id`")]
pub(super) struct ScheduleInPath {
    /// The schedule's name.
    #[param(schema_with = id)]
    id: String,
}

/// How a path names a workflow.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here, read as an `Id`")]
pub(super) struct WorkflowInPath {
    /// The workflow's name.
    #[param(schema_with = id)]
    id: String,
}
