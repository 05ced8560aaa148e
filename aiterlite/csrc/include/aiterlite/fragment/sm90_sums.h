// The registers of a warpgroup's sums in the text of an instruction: AITERLITE_PLACES<count> are their places, and
// AITERLITE_SUMS<count> the operands d[0] to d[count - 1]. For fragment/sm90_wgmma.h.
#pragma once

#define AITERLITE_PLACES4 "%0, %1, %2, %3"
#define AITERLITE_PLACES8 AITERLITE_PLACES4 ", %4, %5, %6, %7"
#define AITERLITE_PLACES12 AITERLITE_PLACES8 ", %8, %9, %10, %11"
#define AITERLITE_PLACES16 AITERLITE_PLACES12 ", %12, %13, %14, %15"
#define AITERLITE_PLACES20 AITERLITE_PLACES16 ", %16, %17, %18, %19"
#define AITERLITE_PLACES24 AITERLITE_PLACES20 ", %20, %21, %22, %23"
#define AITERLITE_PLACES32 AITERLITE_PLACES24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define AITERLITE_PLACES48 \
  AITERLITE_PLACES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define AITERLITE_PLACES64 \
  AITERLITE_PLACES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AITERLITE_PLACES128                                                                      \
  AITERLITE_PLACES64                                                                             \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"             \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define AITERLITE_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define AITERLITE_SUMS8(i) AITERLITE_SUMS4(i), AITERLITE_SUMS4(i + 4)
#define AITERLITE_SUMS12(i) AITERLITE_SUMS8(i), AITERLITE_SUMS4(i + 8)
#define AITERLITE_SUMS16(i) AITERLITE_SUMS8(i), AITERLITE_SUMS8(i + 8)
#define AITERLITE_SUMS20(i) AITERLITE_SUMS16(i), AITERLITE_SUMS4(i + 16)
#define AITERLITE_SUMS24(i) AITERLITE_SUMS16(i), AITERLITE_SUMS8(i + 16)
#define AITERLITE_SUMS32(i) AITERLITE_SUMS16(i), AITERLITE_SUMS16(i + 16)
#define AITERLITE_SUMS48(i) AITERLITE_SUMS32(i), AITERLITE_SUMS16(i + 32)
#define AITERLITE_SUMS64(i) AITERLITE_SUMS32(i), AITERLITE_SUMS32(i + 32)
#define AITERLITE_SUMS128(i) AITERLITE_SUMS64(i), AITERLITE_SUMS64(i + 64)
