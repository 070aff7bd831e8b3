//! Memory that a GPU has taken out of use, or will: retired pages (before Ampere) and remapped rows (since).
//!
//! Read with the inventory, not with each sample: it changes with an error, and for good with a reset. A GPU or a
//! driver that does not offer it says nothing.

use super::super::{GpuSample, metrics};
use super::devices::{answering, uuid};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_REMAPPED_COR, NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
    NVML_FI_DEV_REMAPPED_UNC, NVML_FI_DEV_RETIRED_DBE, NVML_FI_DEV_RETIRED_PENDING,
    NVML_FI_DEV_RETIRED_SBE,
};
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;

/// NVML's fields and the metrics that they are.
const FIELDS: [(u32, &str); 7] = [
    (NVML_FI_DEV_RETIRED_SBE, metrics::RETIRED_SINGLE_BIT),
    (NVML_FI_DEV_RETIRED_DBE, metrics::RETIRED_DOUBLE_BIT),
    (NVML_FI_DEV_RETIRED_PENDING, metrics::RETIRED_PENDING),
    (NVML_FI_DEV_REMAPPED_COR, metrics::REMAPPED_CORRECTABLE),
    (NVML_FI_DEV_REMAPPED_UNC, metrics::REMAPPED_UNCORRECTABLE),
    (NVML_FI_DEV_REMAPPED_PENDING, metrics::REMAP_PENDING),
    (NVML_FI_DEV_REMAPPED_FAILURE, metrics::REMAP_FAILURE),
];

/// NVIDIA's policy for a row that could not be remapped: the GPU is replaced.
const FAILED: &str =
    "a row of its memory failed and no spare one is left to replace it; have the GPU replaced";

type Values = Vec<(&'static str, f64)>;

/// What each GPU said last, by its UUID.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<String, Values>);

impl Repairs {
    /// Asks all GPUs. One that fails to answer this once is as it was.
    pub(super) fn look(&mut self, nvml: &Nvml) {
        let mut before = std::mem::take(&mut self.0);
        for gpu in answering(nvml) {
            let Ok(uuid) = uuid(&gpu) else { continue };
            let read = read(&gpu).ok().or_else(|| before.remove(&uuid));
            self.0.extend(read.map(|values| (uuid, values)));
        }
    }

    /// Why a GPU takes no pods any more.
    pub(super) fn failure(&self, gpu: &str) -> Option<&'static str> {
        let mut values = self.0.get(gpu)?.iter();
        values
            .any(|(name, value)| *name == metrics::REMAP_FAILURE && *value > 0.0)
            .then_some(FAILED)
    }

    /// What each GPU said last.
    pub(super) fn samples(&self) -> impl Iterator<Item = GpuSample> + '_ {
        self.0.iter().flat_map(|(uuid, values)| {
            let of = |&(name, value)| GpuSample { uuid: uuid.clone(), name, value };
            values.iter().map(of)
        })
    }
}

fn read(gpu: &Device<'_>) -> Result<Values, NvmlError> {
    let told = match gpu.field_values_for(&FIELDS.map(|(field, _)| FieldId(field))) {
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => return Ok(vec![]),
        told => told?,
    };
    let number = |value| match value {
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => super::readings::number(value),
        SampleValue::I64(value) => super::readings::number(u64::try_from(value).unwrap_or(0)),
        SampleValue::F64(value) => value,
    };
    let offered = told
        .into_iter()
        .zip(FIELDS)
        .filter_map(|(field, (_, name))| Some((name, field.ok()?.value.ok().map(number)?)));
    Ok(offered.collect())
}
