/*
 * The second translation unit, without exceptions and RTTI: after telemetry.h, whose struct must not take the
 * namespace's name, and twice; the category is one in the whole program.
 */
#include "telemetry.h"

#include "telemetry.hpp"
#include "telemetry.hpp"

const std::error_category &category_of_another_unit() noexcept { return telemetry::telemetry_category(); }
