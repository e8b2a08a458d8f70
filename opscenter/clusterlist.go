package opscenter

import (
	"context"
	"maps"

	"github.com/opscenter-go/sdk/internal/page"
)

// Cluster returns a cluster by its name. Errors: ErrNotFound.
func (r *Registry) Cluster(ctx context.Context, name string) (out *Cluster, err error) {
	err = r.Read(ctx, func(s *Snapshot) error {
		cluster, err := s.Cluster(name)
		if err != nil {
			return err
		}
		copied := *cluster
		copied.Properties = maps.Clone(cluster.Properties)
		out = &copied
		return nil
	})
	return out, err
}

// ClusterPage is a page of clusters.
type ClusterPage struct {
	Clusters []*Cluster
	// Next is the cursor of the next page. Empty: this page is the last.
	Next string
}

// ClusterFilter selects clusters. The zero value selects all.
type ClusterFilter struct {
	// Expression is in the language of package expression. It may use name, description, properties, connection_url,
	// channel, fingerprint, status, created_at, last_updated, certificate, server_names, server_type, update_status and
	// config.
	Expression string
}

// ListClusters returns a page of the clusters that match, by name. Errors: ErrInvalidFilter, ErrInvalidCursor.
func (r *Registry) ListClusters(ctx context.Context, filter ClusterFilter, from Page) (out ClusterPage, err error) {
	limit := page.Size(from.Limit)
	err = r.Read(ctx, func(s *Snapshot) error {
		out = ClusterPage{}
		expression, err := compileFilter(filter.Expression, clusterSchema)
		if err != nil {
			return err
		}
		within, err := from.within(nil)
		if err != nil {
			return err
		}
		for cluster, err := range clusters.Scan(s, within) {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if expression != nil {
				if ok, err := s.matchesCluster(expression, cluster); err != nil {
					return err
				} else if !ok {
					continue
				}
			}
			if len(out.Clusters) == limit {
				out.Next = page.Encode(out.Clusters[limit-1].Name)
				break
			}
			copied := *cluster
			out.Clusters = append(out.Clusters, &copied)
		}
		return filterError(expression, from)
	})
	return out, err
}
