//! Smooths the readings of a turbine's speed sensor.

use std::collections::VecDeque;

/// Mean of the latest readings, in revolutions per minute.
pub struct SpeedFilter {
    readings_rpm: VecDeque<f64>,
    capacity: usize,
}

impl SpeedFilter {
    pub fn new(capacity: usize) -> Self {
        Self { readings_rpm: VecDeque::with_capacity(capacity), capacity }
    }

    pub fn push(&mut self, reading_rpm: f64) -> f64 {
        if self.readings_rpm.len() == self.capacity {
            self.readings_rpm.pop_front();
        }
        self.readings_rpm.push_back(reading_rpm);
        self.readings_rpm.iter().sum::<f64>() / self.readings_rpm.len() as f64
    }
}
