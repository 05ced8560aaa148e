#pragma once
#define PLAIN_VALUE 7
