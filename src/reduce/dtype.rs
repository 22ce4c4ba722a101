//! The data types of elements.

use std::fmt;

/// Data type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// IEEE 754 binary16.
    Float16,
    /// The upper half of an IEEE 754 binary32.
    BFloat16,
    /// IEEE 754 binary32.
    Float32,
    /// IEEE 754 binary64.
    Float64,
    /// Real and imaginary part, each a [`DataType::Float32`].
    Complex64,
    /// Real and imaginary part, each a [`DataType::Float64`].
    Complex128,
    /// Unsigned, 8 bits.
    UInt8,
    /// Signed, 8 bits.
    Int8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Signed, 16 bits.
    Int16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Signed, 32 bits.
    Int32,
    /// Unsigned, 64 bits.
    UInt64,
    /// Signed, 64 bits.
    Int64,
    /// One byte; zero is false, everything else true.
    Bool,
    /// Bytes of any other type; they can be moved but not reduced.
    Bytes,
}

impl DataType {
    /// Every data type.
    pub const ALL: [DataType; 16] = [
        DataType::Float16,
        DataType::BFloat16,
        DataType::Float32,
        DataType::Float64,
        DataType::Complex64,
        DataType::Complex128,
        DataType::UInt8,
        DataType::Int8,
        DataType::UInt16,
        DataType::Int16,
        DataType::UInt32,
        DataType::Int32,
        DataType::UInt64,
        DataType::Int64,
        DataType::Bool,
        DataType::Bytes,
    ];

    /// Size of an element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DataType::UInt8 | DataType::Int8 | DataType::Bool | DataType::Bytes => 1,
            DataType::Float16 | DataType::BFloat16 | DataType::UInt16 | DataType::Int16 => 2,
            DataType::Float32 | DataType::UInt32 | DataType::Int32 => 4,
            DataType::Float64 | DataType::Complex64 | DataType::UInt64 | DataType::Int64 => 8,
            DataType::Complex128 => 16,
        }
    }

    /// The name that torch gives it.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Float16 => "float16",
            DataType::BFloat16 => "bfloat16",
            DataType::Float32 => "float32",
            DataType::Float64 => "float64",
            DataType::Complex64 => "complex64",
            DataType::Complex128 => "complex128",
            DataType::UInt8 => "uint8",
            DataType::Int8 => "int8",
            DataType::UInt16 => "uint16",
            DataType::Int16 => "int16",
            DataType::UInt32 => "uint32",
            DataType::Int32 => "int32",
            DataType::UInt64 => "uint64",
            DataType::Int64 => "int64",
            DataType::Bool => "bool",
            DataType::Bytes => "bytes",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
