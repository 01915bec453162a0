/*
 * The second translation unit, without exceptions and RTTI: the header twice, and after telemetry.h; the category is
 * one in the whole program.
 */
#include "telemetry.hpp"
#include "telemetry.h"
#include "telemetry.hpp"

const std::error_category &category_of_another_unit() noexcept { return telemetry::telemetry_category(); }
